"""The network, the host's own ports, and names."""

import socket
import struct

from tests.sandbox.escape.attempt import LOOT, NOTED, SECRET, Host, attempt, call

_WAIT_S = 2.0
_PACKETS = 200
_DONE = 3
_NEWUSER_NEWNET = 0x10000000 | 0x40000000


def _ask(family: int, kind: int, where: object, name: str) -> str:
    with socket.socket(family, kind) as link:
        link.settimeout(_WAIT_S)
        link.connect(where)  # type: ignore[arg-type]
        link.sendall(name.encode())
        return link.recv(512).decode(errors="replace")


@attempt("connects to a TCP port of the host's loopback address", SECRET, "the host's network, no filter")
def tcp_to_loopback(host: Host) -> str:
    return _ask(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", host["tcp"]), host["name"])


@attempt("connects to a TCP port of the machine's own address", SECRET, "the host's network, no filter")
def tcp_to_machine(host: Host) -> str:
    return _ask(socket.AF_INET, socket.SOCK_STREAM, (host["address"], host["tcp"]), host["name"])


@attempt(
    "connects to a TCP port of the host's IPv6 loopback address",
    SECRET,
    "the host's network, no filter",
    absent="/proc/net/if_inet6",
)
def tcp_by_ipv6(host: Host) -> str:
    return _ask(socket.AF_INET6, socket.SOCK_STREAM, ("::1", host["tcp6"]), host["name"])


@attempt("sends a datagram to the host and reads the answer", SECRET, "the host's network, no filter")
def udp_to_loopback(host: Host) -> str:
    return _ask(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", host["udp"]), host["name"])


@attempt("tells a name server data in a name (DNS tunnel)", SECRET, "the host's network, no filter")
def data_in_a_name(host: Host) -> str:
    label = host["name"].encode()
    query = struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + bytes([len(label)]) + label + b"\0" + struct.pack(">2H", 16, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(_WAIT_S)
        link.sendto(query, ("127.0.0.1", host["udp"]))
        return link.recv(512).decode(errors="replace")


@attempt("reads other programs' packets (AF_PACKET)", SECRET, "root with NET_RAW, the host's network, no filter")
def sniff(host: Host) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        tap.bind(("lo", 0))
        tap.settimeout(_WAIT_S)
        for _ in range(_PACKETS):  # the host talks to itself all the time
            if host["gossip_mark"].encode() in (packet := tap.recv(2048)):
                return packet.decode(errors="replace")
    return ""


@attempt("opens a raw IP socket", LOOT, "root with NET_RAW, the host's network, no filter")
def raw_ip(host: Host) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        return str(link.getsockname())


@attempt("lists the host's interfaces (netlink)", LOOT, "the host's network, no filter")
def list_interfaces(host: Host) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(_WAIT_S)
        link.send(struct.pack("=LHHLLBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
        data = b""
        while struct.unpack_from("=H", part := link.recv(65_536), 4)[0] != _DONE:
            data += part
    return "found" if host["interface"].encode() in data else ""


@attempt("makes a firewall rule set's socket in namespaces of its own (nftables)", LOOT, "no filter")
def nftables_in_user_namespace(host: Host) -> str:
    call("unshare", _NEWUSER_NEWNET)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as link:
        link.settimeout(_WAIT_S)
        link.send(struct.pack("=LHHLLBBH", 20, (10 << 8) | 16, 1, 1, 0, 0, 0, 0))  # which generation
        return "answered" if struct.unpack_from("=H", link.recv(4096), 4)[0] == (10 << 8) | 15 else ""


@attempt("has the kernel compute a digest (AF_ALG)", LOOT, "no filter", absent="AF_ALG")
def kernel_crypto(host: Host) -> str:
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as link:
        link.bind(("hash", "sha256"))
        digest, _ = link.accept()
        with digest:
            digest.sendall(b"x")
            return digest.recv(64).hex()


@attempt("opens a socket to the machine's hypervisor (AF_VSOCK)", LOOT, "no filter", absent="/dev/vsock")
def vsock(host: Host) -> str:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as link:
        return str(link.getsockname())


@attempt("listens on a port of the host", NOTED, "the host's network, no filter")
def listen_on_a_port(host: Host) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as link:
        link.bind(("127.0.0.1", host["free_port"]))
        link.listen()
        link.settimeout(_WAIT_S)
        link.accept()[0].close()  # the host looks whether somebody answers there
        return ""
