"""Memory and queues that all processes of a machine share by a number or a name."""

import ctypes
import os
from pathlib import Path

from tests.sandbox.escape.attempt import NOTED, SECRET, Host, attempt, call, library

_UNFILTERED = "the host's shared memory, no filter"


def _attach(host: Host, flags: int) -> int:
    segment = call("shmget", host["shm_key"], 0, 0)
    attach = library().shmat
    attach.restype = ctypes.c_void_p
    where = attach(segment, None, flags)
    if where in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    return int(where)


@attempt("reads the host's shared memory (System V)", SECRET, _UNFILTERED)
def read_segment(host: Host) -> str:
    return ctypes.string_at(_attach(host, 0o10000), 64).decode(errors="replace")


@attempt("takes a message from the host's queue (System V)", SECRET, _UNFILTERED)
def read_queue(host: Host) -> str:
    queue = call("msgget", host["msg_key"], 0)
    buffer = ctypes.create_string_buffer(8 + 256)
    size = call("msgrcv", queue, buffer, 256, 0, 0o4000)
    return buffer.raw[8 : 8 + size].decode()


@attempt("reads the host's file in /dev/shm", SECRET, "the host's shared memory")
def read_dev_shm(host: Host) -> str:
    return Path("/dev/shm", host["shm_name"]).read_text()


@attempt("writes to the host's file in /dev/shm", NOTED, "the host's shared memory")
def write_dev_shm(host: Host) -> str:
    handle = os.open(f"/dev/shm/{host['shm_name']}", os.O_WRONLY)
    os.pwrite(handle, b"changed", 100)
    return ""
