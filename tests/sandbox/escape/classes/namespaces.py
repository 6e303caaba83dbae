"""New namespaces, and the host's."""

# ruff: noqa: PTH115

import ctypes
import os
import struct
import time
from pathlib import Path

from tests.sandbox.escape.attempt import LOOT, MAPPED, NOTED, SECRET, Host, address, attempt, call

_NEWNS, _NEWUTS, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x10000000, 0x20000000, 0x40000000
_LOOK_S, _USER = 0.6, os.geteuid()
_ADMIN = "root with SYS_ADMIN, no filter"


def _namespace(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


def _show(user: int) -> None:
    """Maps this user to another one, which the host can see, and waits until it has looked."""
    Path("/proc/self/uid_map").write_text(f"{user} {_USER} 1")
    time.sleep(_LOOK_S)


def _child(user: int) -> None:
    try:
        _show(user)
    finally:
        os._exit(0)


@attempt("makes a user namespace in which it may do everything (unshare)", NOTED, "no filter")
def unshare_user(host: Host) -> str:
    call("unshare", _NEWUSER)
    _show(MAPPED["unshare-user"])
    return ""


@attempt("starts a process in a user namespace (clone)", NOTED, "no filter")
def clone_user(host: Host) -> str:
    child = call("clone", _NEWUSER | 17, 0, 0, 0, 0)
    if child == 0:
        _child(MAPPED["clone-user"])
    os.waitpid(child, 0)
    return "made"


@attempt("starts a process in a user namespace (clone3)", NOTED, "no filter")
def clone3_user(host: Host) -> str:
    arguments = ctypes.create_string_buffer(struct.pack("=8Q", _NEWUSER, 0, 0, 0, 17, 0, 0, 0))
    child = call("clone3", address(arguments), 64)
    if child == 0:
        _child(MAPPED["clone3-user"])
    os.waitpid(child, 0)
    return "made"


@attempt("makes a mount namespace", LOOT, _ADMIN)
def unshare_mounts(host: Host) -> str:
    before = _namespace("mnt")
    call("unshare", _NEWNS)
    return "new" if _namespace("mnt") != before else ""


@attempt("makes a process namespace", LOOT, _ADMIN)
def unshare_processes(host: Host) -> str:
    call("unshare", _NEWPID)
    child = os.fork()
    if child == 0:
        os._exit(0 if os.getpid() == 1 else 1)
    return "first" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 else ""


@attempt("makes a network namespace", LOOT, _ADMIN)
def unshare_network(host: Host) -> str:
    before = _namespace("net")
    call("unshare", _NEWNET)
    return "new" if _namespace("net") != before else ""


@attempt(
    "enters the host's mounts (setns)",
    SECRET,
    "root with SYS_ADMIN and SYS_CHROOT and SYS_PTRACE, the host's processes, no filter",
)
def enter_mounts(host: Host) -> str:
    # A file system context that is shared cannot move.
    handle = os.open(f"/proc/{host['victim']}/ns/mnt", os.O_RDONLY)
    call("setns", handle, _NEWNS)
    return Path(host["secret_file"]).read_text()


@attempt(
    "enters the host's network (setns)",
    LOOT,
    "root with SYS_ADMIN and SYS_CHROOT and SYS_PTRACE, the host's processes, no filter",
)
def enter_network(host: Host) -> str:
    handle = os.open(f"/proc/{host['victim']}/ns/net", os.O_RDONLY)
    call("setns", handle, _NEWNET)
    return "found" if host["interface"] in Path("/proc/self/net/dev").read_text() else ""


@attempt("renames the machine (sethostname)", LOOT, _ADMIN)
def set_host_name(host: Host) -> str:
    call("sethostname", b"owned", 5)
    return "owned" if os.uname().nodename == "owned" else ""


@attempt("sets the machine's domain", LOOT, _ADMIN)
def set_domain_name(host: Host) -> str:
    call("setdomainname", b"owned", 5)
    return Path("/proc/sys/kernel/domainname").read_text()
