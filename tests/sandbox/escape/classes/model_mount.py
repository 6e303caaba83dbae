"""Changing a file of the read-only mount, by every call that can change a file."""

# ruff: noqa: PTH101, PTH104, PTH105, PTH108, PTH211

import ctypes
import fcntl
import mmap
import os
import time
from pathlib import Path

from tests.sandbox.escape.attempt import CHANGED, NOTED, Host, attempt, call

_WRITABLE = "a writable mount"
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_O_TMPFILE = 0o20200000
_AT_FDCWD, _FOLLOW = -100, 0x400


@attempt("opens it for writing", CHANGED, _WRITABLE)
def write_model(host: Host) -> str:
    os.write(os.open(host["file"], os.O_WRONLY), b"changed")
    return ""


@attempt("appends to it", CHANGED, _WRITABLE)
def append_to_model(host: Host) -> str:
    os.write(os.open(host["file"], os.O_WRONLY | os.O_APPEND), b"changed")
    return ""


@attempt("opens it for reading, with truncation", CHANGED, _WRITABLE)
def open_and_truncate(host: Host) -> str:
    os.close(os.open(host["file"], os.O_RDONLY | os.O_TRUNC))
    return ""


@attempt("opens it for writing, with truncation", CHANGED, _WRITABLE)
def write_and_truncate(host: Host) -> str:
    os.close(os.open(host["file"], os.O_WRONLY | os.O_TRUNC))
    return ""


@attempt("truncates it by its name", CHANGED, _WRITABLE)
def truncate_by_name(host: Host) -> str:
    os.truncate(host["file"], 1)
    return ""


@attempt("truncates it by a descriptor for reading, else for writing", CHANGED, _WRITABLE)
def truncate_by_descriptor(host: Host) -> str:
    try:
        os.ftruncate(os.open(host["file"], os.O_RDONLY), 1)
    except OSError:
        os.ftruncate(os.open(host["file"], os.O_RDWR), 1)
    return ""


@attempt("maps it shared and writes to memory", CHANGED, _WRITABLE)
def map_shared(host: Host) -> str:
    flags = os.O_RDWR if os.access(host["file"], os.W_OK) else os.O_RDONLY
    view = mmap.mmap(os.open(host["file"], flags), 4, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    view[:4] = b"mmap"
    view.flush()
    return ""


@attempt("maps it for reading and makes the mapping writable (mprotect)", CHANGED, _WRITABLE)
def map_and_protect(host: Host) -> str:
    flags = os.O_RDWR if os.access(host["file"], os.W_OK) else os.O_RDONLY
    view = mmap.mmap(os.open(host["file"], flags), 4096, mmap.MAP_SHARED, mmap.PROT_READ)
    places = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(host["file"])]
    at = int(places[0].split("-")[0], 16)
    library = ctypes.CDLL(None, use_errno=True)
    if library.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(4096), 3) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.memmove(at, b"prot", 4)
    view.flush()
    return ""


@attempt("punches a hole into it (fallocate)", CHANGED, _WRITABLE)
def punch_hole(host: Host) -> str:
    handle = os.open(host["file"], os.O_RDWR if os.access(host["file"], os.W_OK) else os.O_RDONLY)
    call("fallocate", handle, _PUNCH_HOLE | _KEEP_SIZE, 0, 4)
    return ""


@attempt("opens the descriptor for reading again for writing (/proc/self/fd)", CHANGED, _WRITABLE)
def reopen(host: Host) -> str:
    handle = os.open(host["file"], os.O_RDONLY)
    os.write(os.open(f"/proc/self/fd/{handle}", os.O_WRONLY), b"changed")
    return ""


@attempt("opens a path's descriptor for writing (O_PATH)", CHANGED, _WRITABLE)
def reopen_path(host: Host) -> str:
    handle = os.open(host["file"], os.O_PATH)
    os.write(os.open(f"/proc/self/fd/{handle}", os.O_RDWR), b"changed")
    return ""


@attempt("copies other data over it (copy_file_range)", CHANGED, _WRITABLE)
def copy_range(host: Host) -> str:
    source, target = os.open("/models/tool", os.O_RDONLY), os.open(host["file"], os.O_WRONLY)
    os.copy_file_range(source, target, 4)
    return ""


@attempt("sends other data over it (sendfile)", CHANGED, _WRITABLE)
def sendfile(host: Host) -> str:
    os.sendfile(os.open(host["file"], os.O_WRONLY), os.open("/models/tool", os.O_RDONLY), 0, 4)
    return ""


@attempt("gives a file without a name its place (O_TMPFILE, linkat)", NOTED, _WRITABLE)
def nameless_file(host: Host) -> str:
    handle = os.open("/models", _O_TMPFILE | os.O_WRONLY, 0o644)
    os.write(handle, b"x")
    call("linkat", _AT_FDCWD, f"/proc/self/fd/{handle}".encode(), _AT_FDCWD, b"/models/nameless", _FOLLOW)
    return ""


@attempt("makes a new file beside it", NOTED, _WRITABLE)
def new_file(host: Host) -> str:
    Path("/models/new").write_text("x")
    return ""


@attempt("moves it away", CHANGED, _WRITABLE)
def rename_model(host: Host) -> str:
    os.rename(host["file"], host["file"] + ".gone")
    return ""


@attempt("deletes it", CHANGED, _WRITABLE)
def delete_model(host: Host) -> str:
    os.unlink(host["file"])
    return ""


@attempt("puts a link in its place", CHANGED, _WRITABLE)
def link_in_its_place(host: Host) -> str:
    os.symlink("/etc/passwd", host["file"] + ".link")
    os.replace(host["file"] + ".link", host["file"])
    return ""


@attempt("changes its mode", CHANGED, "root, a writable mount")
def change_mode(host: Host) -> str:
    os.chmod(host["file"], 0o4777)
    return ""


@attempt("changes its times", CHANGED, "root, a writable mount")
def change_times(host: Host) -> str:
    os.utime(host["file"], (1, 1))
    return ""


@attempt("gives it an attribute (setxattr)", CHANGED, "no filter, a writable mount")
def set_attribute(host: Host) -> str:
    call("setxattr", host["file"].encode(), b"user.claw", b"x", 1, 0)
    return ""


@attempt("locks it, so that the host cannot (flock)", NOTED, "no filter")
def lock_model(host: Host) -> str:
    fcntl.flock(os.open(host["file"], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    time.sleep(0.5)  # meanwhile the host tries to lock it
    return ""
