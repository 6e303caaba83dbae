"""The folder with the host's socket: what lies there, races for names in it, and descriptors over the socket."""

# ruff: noqa: PTH104, PTH108

import array
import os
import socket
from pathlib import Path

from tests.sandbox.escape.attempt import NOTED, SECRET, Host, attempt, call

_WAIT_S = 3.0
_WRITABLE = "writable folder"
_AT_FDCWD, _EXCHANGE = -100, 2


@attempt("puts a link to the host's file where the host changes its socket's mode", NOTED, _WRITABLE)
def link_for_socket(host: Host) -> str:
    path = Path(host["share"], "again.sock")
    path.unlink()
    path.symlink_to(host["secret_file"])
    return ""


@attempt("races the host's renewed socket with a link (renameat2)", NOTED, _WRITABLE)
def exchange_race(host: Host) -> str:
    folder = host["share"]
    Path(folder, "lure").symlink_to(host["secret_file"])
    for _ in range(101):  # odd: at the end they are exchanged
        call("renameat2", _AT_FDCWD, f"{folder}/lure".encode(), _AT_FDCWD, f"{folder}/raced.sock".encode(), _EXCHANGE)
    return ""


@attempt("moves the host's socket away", NOTED, _WRITABLE)
def move_socket(host: Host) -> str:
    os.rename(f"{host['share']}/moved.sock", f"{host['share']}/elsewhere.sock")
    return ""


@attempt("deletes the host's socket", NOTED, _WRITABLE)
def delete_socket(host: Host) -> str:
    os.unlink(f"{host['share']}/deleted.sock")
    return ""


@attempt("leaves a link to the host's file for the host to read", NOTED, _WRITABLE)
def leave_link(host: Host) -> str:
    Path(host["share"], "result").symlink_to(host["secret_file"])
    return ""


@attempt("fills the host's disk through the folder", NOTED, _WRITABLE)
def fill_folder(host: Host) -> str:
    with Path(host["share"], "filling").open("wb") as file:
        for _ in range(16):
            file.write(bytes(1 << 20))
    return ""


@attempt("fills the host's disk with names through the folder", NOTED, _WRITABLE)
def many_names(host: Host) -> str:
    for number in range(300):
        Path(host["share"], f"name-{number}").touch()
    return ""


@attempt("gives another name to the host's model in the folder", NOTED, "root, a writable mount")
def link_model(host: Host) -> str:
    os.link("/models/tool", "/models/linked")
    return ""


@attempt("reads the host's files above the folder", SECRET, "the host's files at their place")
def above_the_folder(host: Host) -> str:
    os.chdir(host["share"])
    return Path("../" * 10 + host["secret_file"].lstrip("/")).read_text()


@attempt("gives the host a descriptor over the socket (SCM_RIGHTS)", NOTED, "a host that takes descriptors")
def descriptor_to_host(host: Host) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_WAIT_S)
        link.connect(f"{host['share']}/engine.sock")
        mine = os.open("/etc/passwd", os.O_RDONLY)
        rights = array.array("i", [mine])
        link.sendmsg([host["name"].encode().ljust(64)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        link.recv(64)
    return ""


@attempt("asks the host for a descriptor over the socket (SCM_RIGHTS)", SECRET, "a host that gives descriptors")
def descriptor_from_host(host: Host) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_WAIT_S)
        link.connect(f"{host['share']}/engine.sock")
        link.sendall(host["name"].encode().ljust(64))
        _, ancillary, _, _ = link.recvmsg(64, socket.CMSG_SPACE(64))
        for _, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                handle = array.array("i", data[:4])[0]
                return os.read(os.open("secret", os.O_RDONLY, dir_fd=handle), 512).decode()
    return ""
