"""Mounting, and changing what is mounted."""

# ruff: noqa: PTH208

import ctypes
import os
import struct
from pathlib import Path

from tests.sandbox.escape.attempt import CHANGED, LOOT, Host, address, attempt, call

_ADMIN = "root with SYS_ADMIN, no filter"
_REMOUNT, _BIND, _READ_ONLY = 32, 4096, 1
_NEWNS, _NEWUSER = 0x20000, 0x10000000
_AT_FDCWD, _OPEN_TREE_CLONE = -100, 1


def _become_root_in_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    call("unshare", _NEWUSER | _NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


@attempt("mounts a writable folder over a read-only one", LOOT, _ADMIN)
def mount_tmpfs(host: Host) -> str:
    call("mount", b"none", b"/opt", b"tmpfs", 0, 0)
    Path("/opt/x").write_text("written")
    return Path("/opt/x").read_text()


@attempt("mounts again, writable, what was given read-only", CHANGED, "root with SYS_ADMIN, no filter")
def remount_writable(host: Host) -> str:
    call("mount", 0, b"/models", 0, _REMOUNT | _BIND, 0)
    Path(host["file"]).write_text("changed")
    call("mount", 0, b"/models", 0, _REMOUNT | _BIND | _READ_ONLY, 0)
    return ""


@attempt("clears a mount's read-only mark (mount_setattr)", CHANGED, "root with SYS_ADMIN, no filter")
def clear_read_only(host: Host) -> str:
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", 0, 1, 0, 0))
    call("mount_setattr", _AT_FDCWD, b"/models", 0, address(attributes), 32)
    Path(host["file"]).write_text("changed")
    return ""


@attempt("makes a file system by the newer calls (fsopen)", LOOT, _ADMIN)
def fsopen(host: Host) -> str:
    return f"descriptor {call('fsopen', b'tmpfs', 0)}"


@attempt("copies a mount to change it (open_tree)", LOOT, _ADMIN)
def open_tree(host: Host) -> str:
    return f"descriptor {call('open_tree', _AT_FDCWD, b'/models', _OPEN_TREE_CLONE)}"


@attempt("takes a cover off /proc", LOOT, _ADMIN)
def uncover(host: Host) -> str:
    call("umount2", b"/proc/keys", 2)
    return Path("/proc/keys").read_text() or "uncovered"


@attempt("mounts in namespaces of its own", LOOT, "no filter")
def mount_in_user_namespace(host: Host) -> str:
    _become_root_in_namespaces()
    call("mount", b"none", b"/opt", b"tmpfs", 0, 0)
    Path("/opt/x").write_text("written")
    return Path("/opt/x").read_text()


@attempt(
    "layers a writable file system over others (overlayfs)", LOOT, "root with SYS_ADMIN and DAC_OVERRIDE, no filter"
)
def overlay(host: Host) -> str:
    base = "/opt"
    call("mount", b"none", base.encode(), b"tmpfs", 0, 0)
    for name in ("up", "work", "all"):
        Path(base, name).mkdir()
    options = f"lowerdir=/usr,upperdir={base}/up,workdir={base}/work"
    call("mount", b"none", f"{base}/all".encode(), b"overlay", 0, options.encode())
    Path(base, "all/x").write_text("written")
    return Path(base, "up/x").read_text()


@attempt("makes another folder its root (chroot)", LOOT, "root with SYS_CHROOT, no filter")
def chroot(host: Host) -> str:
    Path("/tmp/mark").write_text("x")
    call("chroot", b"/tmp")
    return " ".join(os.listdir("/"))


@attempt("exchanges the root (pivot_root)", LOOT, _ADMIN)
def pivot_root(host: Host) -> str:
    call("unshare", _NEWNS)
    call("mount", b"none", b"/opt", b"tmpfs", 0, 0)
    Path("/opt/old").mkdir()
    call("pivot_root", b"/opt", b"/opt/old")
    return " ".join(os.listdir("/old"))
