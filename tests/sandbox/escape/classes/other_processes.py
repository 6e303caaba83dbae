"""Signals to, tracing of, and limits on processes of the host."""

import ctypes
import fcntl
import os
import resource
import signal
import struct

from tests.sandbox.escape.attempt import NOTED, SECRET, Host, address, attempt, call

_SAME_USER = "the host's processes"
_UNFILTERED = "the host's processes, no filter"
_ATTACH, _PEEK, _DETACH = 16, 2, 17


@attempt("sends a signal to a process of the host", NOTED, _SAME_USER)
def send_signal(host: Host) -> str:
    os.kill(host["victim"], signal.SIGUSR1)
    return ""


@attempt("sends a signal to a thread of the host", NOTED, _SAME_USER)
def signal_a_thread(host: Host) -> str:
    call("tgkill", host["victim"], host["victim"], int(signal.SIGUSR2))
    return ""


@attempt("sends a signal by a process descriptor", NOTED, _UNFILTERED)
def signal_by_descriptor(host: Host) -> str:
    call("pidfd_send_signal", call("pidfd_open", host["victim"], 0), int(signal.SIGHUP), 0, 0)
    return ""


@attempt("has the kernel send a signal when a pipe is ready (F_SETOWN)", NOTED, _SAME_USER)
def signal_by_owner(host: Host) -> str:
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, host["victim"])
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(writer, b"x")
    return ""


@attempt("slows a process of the host down (setpriority)", NOTED, _SAME_USER)
def lower_priority(host: Host) -> str:
    os.setpriority(os.PRIO_PROCESS, host["victim"], 7)
    return ""


@attempt("takes descriptors from a process of the host (prlimit)", NOTED, _SAME_USER)
def lower_limits(host: Host) -> str:
    resource.prlimit(host["victim"], resource.RLIMIT_MSGQUEUE, (4096, 4096))
    return ""


@attempt("moves a process of the host to one core", NOTED, _SAME_USER)
def move_to_a_core(host: Host) -> str:
    os.sched_setaffinity(host["victim"], {0})
    return ""


@attempt("traces a process of the host and reads its memory", SECRET, _UNFILTERED)
def trace(host: Host) -> str:
    victim = host["victim"]
    call("ptrace", _ATTACH, victim, 0, 0)
    os.waitpid(victim, 0x40000000)
    words = b""
    cell = ctypes.c_long()
    for offset in range(0, 64, 8):
        call("ptrace", _PEEK, victim, host["victim_secret_at"] + offset, address(cell))
        words += bytes(cell)
    call("ptrace", _DETACH, victim, 0, 0)
    return words.decode(errors="replace")


def _vector(buffer: object, at: int, size: int) -> tuple[object, object]:
    local = ctypes.create_string_buffer(struct.pack("=QQ", address(buffer), size))
    remote = ctypes.create_string_buffer(struct.pack("=QQ", at, size))
    return local, remote


@attempt("copies memory from a process of the host (process_vm_readv)", SECRET, _UNFILTERED)
def copy_memory(host: Host) -> str:
    buffer = ctypes.create_string_buffer(64)
    local, remote = _vector(buffer, host["victim_secret_at"], 64)
    call("process_vm_readv", host["victim"], address(local), 1, address(remote), 1, 0)
    return buffer.raw.decode(errors="replace")


@attempt("copies memory into a process of the host (process_vm_writev)", NOTED, _UNFILTERED)
def overwrite_memory(host: Host) -> str:
    text = b"poked by writev"
    buffer = ctypes.create_string_buffer(text)
    local, remote = _vector(buffer, host["victim_scratch_at"] + 64, len(text))
    call("process_vm_writev", host["victim"], address(local), 1, address(remote), 1, 0)
    return ""


@attempt("takes an open file from a process of the host (pidfd_getfd)", SECRET, _UNFILTERED)
def steal_descriptor(host: Host) -> str:
    mine = call("pidfd_getfd", call("pidfd_open", host["victim"], 0), host["victim_fd"], 0)
    return os.pread(mine, 512, 0).decode()
