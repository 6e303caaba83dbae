"""Runs inside a probe container: tries what must not work there, and prints what happened as one JSON line.

Its text is handed to the container's Python, so that it imports the standard library only. It judges nothing: the host
does, and holds it against what the host itself sees.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

_WAIT_S = 1.0
_PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS = 21, 39
_ANY = 0xFFFFFFFF
_X86, _ARM = "x86_64", "aarch64"

# name: (number on x86-64, number on ARM, arguments that do no harm where the call is allowed)
CALLS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "personality": (135, 92, (_ANY,)),  # asks only: nothing but a filter ever refuses it
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "io_uring_setup": (425, 425, (0, 0)),
    "kexec_load": (246, 104, (0, 0, 0, 0)),
    "keyctl": (250, 219, (0, -3, 0, 0, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "move_mount": (429, 429, (-1, 0, -1, 0, 0)),
    "name_to_handle_at": (303, 264, (-1, 0, 0, 0, 0)),
    "open_by_handle_at": (304, 265, (-1, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, -1, -1, 0)),
    "pidfd_getfd": (438, 438, (-1, 0, 0)),
    "pivot_root": (155, 41, (0, 0)),
    "process_vm_readv": (310, 270, (1, 0, 0, 0, 0, 0)),
    "ptrace": (101, 117, (16, 1, 0, 0)),
    "setns": (308, 268, (-1, 0)),
    "unshare": (272, 97, (0x10000000,)),
    "userfaultfd": (323, 282, (0,)),
}
FAMILIES = {"inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "alg": 38, "vsock": 40}


CHANGES: dict[str, Callable[[str], Any]] = {
    "append": lambda path: os.write(os.open(path, os.O_WRONLY | os.O_APPEND), b"x"),
    "chmod": lambda path: os.chmod(path, 0o600),  # noqa: PTH101
    "create": lambda path: Path(path).touch(),
    "link": lambda path: os.link(path, path + "-too"),
    "read-truncate": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
    "rename": lambda path: os.rename(path, path + "d"),  # noqa: PTH104
    "unlink": os.unlink,
    "write": lambda path: os.write(os.open(path, os.O_WRONLY), b"x"),
    "write-truncate": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
}


def main(target: dict[str, Any]) -> None:
    """Prints the facts, then stays for the host to look at, at most `hold` seconds."""
    facts = {
        "kernel": os.uname().release,
        "ids": [*os.getresuid(), *os.getresgid()],
        "groups": os.getgroups(),
        "capabilities": _capabilities(),
        "no_new_privs": _library().prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
        "seccomp": _library().prctl(_PR_GET_SECCOMP, 0, 0, 0, 0),
        "calls": {name: _call(name) for name in CALLS},
        "families": {name: _outcome(partial(_open_socket, number)) for name, number in FAMILIES.items()},
        "interfaces": _interfaces(),
        "tcp": {f"{host} {port}": _outcome(partial(_connect, host, port)) for host, port in target["tcp"]},
        "udp": {f"{host} {port}": _outcome(partial(_send, host, port)) for host, port in target["udp"]},
        "abstract": _outcome(lambda: _connect_abstract(target["abstract"])),
        "name": _outcome(lambda: socket.getaddrinfo("example.com", 443)),
        "writable": _writable(),
        "mount": {name: _outcome(partial(attempt, target["mount"] + "/" + name)) for name, attempt in CHANGES.items()},
        "program_in_tmp": _outcome(_run_from_tmp),
        "tmp_bytes": _size("/tmp"),  # noqa: S108
        "open_files": list(resource.getrlimit(resource.RLIMIT_NOFILE)),
        "core": list(resource.getrlimit(resource.RLIMIT_CORE)),
        "devices": sorted(os.listdir("/dev")),  # noqa: PTH208
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),  # noqa: PTH208
    }
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    time.sleep(target["hold"])


def _outcome(attempt: Callable[[], Any]) -> str:
    """ "worked" or the name of the error."""
    try:
        attempt()
    except socket.gaierror as error:
        return f"EAI {error.errno}"
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "worked"


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str) -> str:
    x86, arm, arguments = CALLS[name]
    number = x86 if os.uname().machine == _X86 else arm
    ctypes.set_errno(0)
    result = _library().syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments))
    return "worked" if result != -1 else errno.errorcode.get(ctypes.get_errno(), "unknown")


def _capabilities() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name.startswith("Cap")}


def _interfaces() -> list[str]:
    found = set()
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/dev").read_text().splitlines()[2:]
        found |= {line.partition(":")[0].strip() for line in lines}
    with contextlib.suppress(OSError):
        found |= set(os.listdir("/sys/class/net"))  # noqa: PTH208
    return sorted(found)


def _open_socket(family: int) -> None:
    kind = socket.SOCK_SEQPACKET if family == FAMILIES["alg"] else socket.SOCK_DGRAM
    if family in (FAMILIES["netlink"], FAMILIES["packet"]):
        kind = socket.SOCK_RAW
    if family == FAMILIES["vsock"]:
        kind = socket.SOCK_STREAM
    socket.socket(family, kind).close()


def _connect(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as link:
        link.settimeout(_WAIT_S)
        link.connect((host, port))


def _send(host: str, port: int) -> None:
    """Works only with an answer: sending alone succeeds where nobody is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(_WAIT_S)
        link.connect((host, port))
        link.send(b"probe")
        link.recv(64)


def _connect_abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_WAIT_S)
        link.connect("\0" + name)


def _writable() -> list[str]:
    """Folders in which a file can be made: mount points, and what programs expect to be able to write to."""
    folders = {"/", "/dev", "/dev/shm", "/etc", "/opt", "/run", "/tmp", "/usr/bin", "/var", "/var/tmp"}  # noqa: S108
    lines = Path("/proc/self/mounts").read_text().splitlines()
    folders |= {line.split()[1] for line in lines}
    found = []
    for folder in sorted(folders):
        path = Path(folder, f".probe-{os.getpid()}")
        try:
            path.write_bytes(b"x")
        except OSError:
            continue
        found.append(folder)
        with contextlib.suppress(OSError):
            path.unlink()
    return found


def _run_from_tmp() -> None:
    path = Path("/tmp/program")  # noqa: S108
    path.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes())
    path.chmod(0o755)
    try:
        pid = os.posix_spawn(str(path), [str(path), "-S", "-c", "pass"], {})
        os.waitpid(pid, 0)
    finally:
        path.unlink()


def _size(folder: str) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return -1
    return found.f_blocks * found.f_frsize


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
