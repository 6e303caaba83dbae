"""Becoming somebody else, and getting capabilities."""

import ctypes
import os
import struct
import subprocess
import sys
from pathlib import Path

from tests.sandbox.escape.attempt import LOADER_MARK, LOOT, NOTED, Host, address, attempt, call

_OTHER_USER = 12_345


def _effective() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))


@attempt("runs a program of root's with the set-user-id bit", LOOT, "new privileges, no filter")
def set_user_id_program(host: Host) -> str:
    done = subprocess.run(
        ["/models/set-user-id", "-S", "-c", "import os; print(os.geteuid())"],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    return "root" if done.stdout.strip() == "0" else ""


@attempt("gives itself every capability (capset)", LOOT, "root with NET_RAW, no filter")
def raise_capabilities(host: Host) -> str:
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    wanted = _effective() or 1 << 13
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    call("capset", address(header), ctypes.create_string_buffer(struct.pack("=6I", low, low, low, high, high, high)))
    return f"{_effective():x}" if _effective() else ""


@attempt(
    "becomes another user of the host and leaves a file of theirs",
    NOTED,
    "root with SETUID, writable folder, no filter",
)
def become_another_user(host: Host) -> str:
    call("setresuid", _OTHER_USER, _OTHER_USER, _OTHER_USER)
    Path(host["share"], "of-another-user").write_text("x")
    return ""


@attempt("plants a program of root's with the set-user-id bit on the host", NOTED, "root, writable folder")
def plant_set_user_id(host: Host) -> str:
    path = Path(host["share"], "planted")
    path.write_bytes(b"#!/bin/true\n")
    path.chmod(0o4755)
    return ""


@attempt("gives a file of the host capabilities", NOTED, "root with SETFCAP, writable folder, no filter")
def file_capabilities(host: Host) -> str:
    path = Path(host["share"], "capable")
    path.write_bytes(b"x")
    value = struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)
    call("setxattr", str(path).encode(), b"security.capability", value, len(value), 0)
    return ""


@attempt("runs a program written to /tmp", LOOT, "programs in /tmp")
def program_in_tmp(host: Host) -> str:
    path = Path("/tmp/program")
    path.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes())
    path.chmod(0o755)
    try:
        return subprocess.check_output([path, "-S", "-c", "print('ran')"], text=True, env={})
    finally:
        path.unlink()


@attempt("runs a program in /tmp through the loader", NOTED, "programs in /tmp")
def program_by_loader(host: Host) -> str:
    loader = next(Path("/lib64").glob("ld-linux*"), None) or next(Path("/lib").glob("ld-linux*"))
    path = Path("/tmp/program-too")
    path.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes())
    try:
        done = subprocess.run(
            [loader, path, "-S", "-c", "import time; time.sleep(0.6); print('ran')", LOADER_MARK],
            capture_output=True,
            text=True,
            env={},
            check=False,
        )
        return done.stdout
    finally:
        path.unlink()


@attempt("runs a program that is in memory only (memfd)", LOOT, "no filter")
def program_in_memory(host: Host) -> str:
    handle = call("memfd_create", b"x", 0)
    os.write(handle, Path(os.path.realpath(sys.executable)).read_bytes())
    return subprocess.check_output(
        [f"/proc/self/fd/{handle}", "-S", "-c", "print('ran')"], text=True, env={}, pass_fds=(handle,)
    )
