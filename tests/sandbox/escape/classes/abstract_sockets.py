"""Unix sockets without a file: only a network namespace keeps them apart."""

import socket

from tests.sandbox.escape.attempt import NOTED, SECRET, Host, attempt

_WAIT_S = 2.0


@attempt("connects to a service on an abstract socket", SECRET, "the host's network")
def abstract_stream(host: Host) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_WAIT_S)
        link.connect("\0" + host["abstract"])
        link.sendall(host["name"].encode())
        return link.recv(512).decode()


@attempt("sends a datagram to an abstract socket", NOTED, "the host's network")
def abstract_datagram(host: Host) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.sendto(host["name"].encode(), "\0" + host["abstract_datagram"])
        return ""


@attempt("takes a service's abstract name first", NOTED, "the host's network, no filter")
def squat_abstract_name(host: Host) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.bind("\0" + host["abstract_free"])
        link.listen()
        link.settimeout(_WAIT_S)
        link.accept()[0].close()
        return ""


@attempt("connects to another container's abstract socket", SECRET, "the other container's network")
def abstract_of_another_container(host: Host) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_WAIT_S)
        link.connect("\0" + host["neighbour_abstract"])
        return link.recv(512).decode()
