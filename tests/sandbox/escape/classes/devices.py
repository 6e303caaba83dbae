"""Device nodes: the machine's disks, memory and helpers. The disk is a loop device over a file made for it."""

import fcntl
import os
import stat
import struct

from tests.sandbox.escape.attempt import CHANGED, LOOT, SECRET, Host, attempt, call

_MKNOD = "root with MKNOD and rules for the devices, no filter"
_AT_FDCWD = -100


def _node(name: str, kind: int, device: int, flags: int) -> int:
    path = f"/tmp/{name}"
    call("mknodat", _AT_FDCWD, path.encode(), kind | 0o600, device)
    return os.open(path, flags)


@attempt("makes a disk's device node and reads the disk", SECRET, _MKNOD)
def read_disk(host: Host) -> str:
    return os.read(_node("disk", stat.S_IFBLK, host["disk"], os.O_RDONLY), 512).decode(errors="replace")


@attempt("makes a disk's device node and writes to the disk", CHANGED, _MKNOD)
def write_disk(host: Host) -> str:
    handle = _node("disk-too", stat.S_IFBLK, host["disk"], os.O_WRONLY)
    os.pwrite(handle, b"changed", 4096)
    os.fsync(handle)
    return ""


@attempt("reads a disk that lies in /dev", SECRET, "root with the disk in /dev")
def disk_in_dev(host: Host) -> str:
    return os.read(os.open("/dev/vda", os.O_RDONLY), 512).decode(errors="replace")


@attempt("makes /dev/kmsg and reads the kernel's log", LOOT, _MKNOD.replace("MKNOD", "MKNOD and SYSLOG"))
def make_kmsg(host: Host) -> str:
    handle = _node("kmsg", stat.S_IFCHR, os.makedev(1, 11), os.O_RDONLY | os.O_NONBLOCK)
    return os.read(handle, 4096).decode(errors="replace")


@attempt("makes /dev/mem and reads the machine's memory", LOOT, _MKNOD, absent="/dev/mem")
def make_mem(host: Host) -> str:
    handle = _node("mem", stat.S_IFCHR, os.makedev(1, 1), os.O_RDONLY)
    return f"read {len(os.read(handle, 16))} bytes"


@attempt(
    "uses the machine's virtualisation (/dev/kvm)", LOOT, "root with the device /dev/kvm, no filter", absent="/dev/kvm"
)
def kvm(host: Host) -> str:
    return f"version {fcntl.ioctl(os.open('/dev/kvm', os.O_RDWR), 0xAE00)}"


@attempt(
    "makes a network device (/dev/net/tun)",
    LOOT,
    "root with the device /dev/net/tun and NET_ADMIN, no filter",
    absent="/dev/net/tun",
)
def tun(host: Host) -> str:
    handle = os.open("/dev/net/tun", os.O_RDWR)
    return fcntl.ioctl(handle, 0x400454CA, struct.pack("16sH22x", b"claw%d", 0x1001))[:8].decode(errors="replace")


@attempt(
    "mounts its own file system through FUSE",
    LOOT,
    "root with the device /dev/fuse and SYS_ADMIN, no filter",
    absent="/dev/fuse",
)
def fuse(host: Host) -> str:
    handle = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={handle},rootmode=40000,user_id=0,group_id=0"
    call("mount", b"claw", b"/opt", b"fuse", 0, options.encode())
    call("umount2", b"/opt", 2)
    return "mounted"
