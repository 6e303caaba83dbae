"""The host's keys and models, the daemon, other containers."""

# ruff: noqa: PTH208

import os
import signal
import socket
from pathlib import Path

from tests.sandbox.escape.attempt import LOOT, NOTED, SECRET, Host, attempt

_AT_ITS_PLACE = "the host's files at their place"


@attempt("reads the host's key file by its path", SECRET, _AT_ITS_PLACE)
def read_key(host: Host) -> str:
    return Path(host["secret_file"]).read_text()


@attempt("reads another model by its path", SECRET, _AT_ITS_PLACE)
def read_other_model(host: Host) -> str:
    return Path(host["secret_file"]).with_name("other.gguf").read_text()


@attempt("finds the worker's environment in its own", SECRET, "the worker's environment handed on")
def own_environment(host: Host) -> str:
    return Path("/proc/self/environ").read_text() + Path("/proc/1/environ").read_text()


@attempt("talks to the daemon that starts containers", LOOT, "root, the daemon's socket")
def daemon(host: Host) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(3)
        link.connect(host["daemon_socket"])
        link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return link.recv(200).decode()


@attempt("talks to a daemon at its usual place", LOOT, "root, the daemon's socket")
def usual_daemon(host: Host) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(3)
        link.connect("/run/docker.sock")
        link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return link.recv(200).decode()


def _neighbours() -> list[int]:
    """Processes other than this container's: those whose command line names the neighbour."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if b"neighbour-mark" in Path("/proc", name, "cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    if not found:
        raise ProcessLookupError(3, "no process of another container")
    return found


@attempt("reads another container's files (/proc/…/root)", SECRET, "the other container's processes")
def files_of_another_container(host: Host) -> str:
    return "".join(Path(f"/proc/{pid}/root/tmp/secret").read_text() for pid in _neighbours())


@attempt("reads another container's files by its place on the host", SECRET, _AT_ITS_PLACE)
def folder_of_another_container(host: Host) -> str:
    return Path(host["neighbour_share"], "secret").read_text()


@attempt("reads another container's memory", SECRET, "the other container's processes")
def memory_of_another_container(host: Host) -> str:
    return "".join(Path(f"/proc/{pid}/environ").read_text() for pid in _neighbours())


@attempt("talks on another container's socket", SECRET, _AT_ITS_PLACE)
def socket_of_another_container(host: Host) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(3)
        link.connect(host["neighbour_share"] + "/engine.sock")
        link.sendall(host["name"].encode().ljust(64))
        return link.recv(512).decode()


@attempt("signals another container's process", NOTED, "the other container's processes")
def signal_another_container(host: Host) -> str:
    for pid in _neighbours():
        os.kill(pid, signal.SIGUSR1)
    return ""
