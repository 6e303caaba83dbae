"""Files of the kernel that belong to the whole machine, or to other processes. Writes give back what was read."""

# ruff: noqa: PTH208

import contextlib
import os
from pathlib import Path

from tests.sandbox.escape.attempt import LOOT, NOTED, SECRET, Host, attempt, call

_OPEN = "root, open /proc"
_CHUNK = 4096


def _rewrite(path: str) -> str:
    """Opens a setting for writing and writes what it holds already."""
    text = Path(path).read_bytes()
    if b"[" in text:  # one of several words
        text = text.partition(b"[")[2].partition(b"]")[0]
    handle = os.open(path, os.O_WRONLY)
    try:
        return f"wrote {os.write(handle, text)} bytes"
    finally:
        os.close(handle)


@attempt("asks for help by the magic key (sysrq h)", LOOT, _OPEN, absent="/proc/sysrq-trigger")
def sysrq(host: Host) -> str:
    handle = os.open("/proc/sysrq-trigger", os.O_WRONLY)
    return f"wrote {os.write(handle, b'h')}"


@attempt("sets the program that gets core dumps", LOOT, _OPEN)
def core_pattern(host: Host) -> str:
    return _rewrite("/proc/sys/kernel/core_pattern")


@attempt("sets how the machine gives out memory", LOOT, _OPEN)
def overcommit(host: Host) -> str:
    return _rewrite("/proc/sys/vm/overcommit_memory")


@attempt("sets the kernel's helper for binary formats", LOOT, _OPEN, absent="/proc/sys/fs/binfmt_misc/status")
def binary_formats(host: Host) -> str:
    handle = os.open("/proc/sys/fs/binfmt_misc/register", os.O_WRONLY)
    os.close(handle)
    return "opened"


@attempt("changes a setting in /sys", LOOT, "root, the host's /sys")
def setting_in_sys(host: Host) -> str:
    return _rewrite("/sys/kernel/mm/transparent_hugepage/defrag")


@attempt("reads the kernel's memory (/proc/kcore)", LOOT, "root with SYS_RAWIO, open /proc", absent="/proc/kcore")
def kcore(host: Host) -> str:
    with Path("/proc/kcore").open("rb") as file:
        return file.read(4).decode()


@attempt("learns where the kernel's functions lie", LOOT, "root with SYSLOG", absent="/proc/kallsyms")
def kernel_addresses(host: Host) -> str:
    with Path("/proc/kallsyms").open() as file:
        first = next(file, "0").split()
    return "found" if int(first[0], 16) else ""


@attempt("reads the keys' list that is covered up (/proc/keys)", LOOT, "open /proc", absent="/proc/keys")
def covered_keys(host: Host) -> str:
    return Path("/proc/keys").read_text()


@attempt("reads the host's files through /proc/1/root", SECRET, "root with SYS_PTRACE, the host's processes")
def root_of_first_process(host: Host) -> str:
    found = ""
    for process in (1, host["victim"]):
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{process}/root{host['secret_file']}").read_text()
    if not found:
        raise FileNotFoundError(2, "not there")
    return found


@attempt("reads the environment of a process of the host", SECRET, "the host's processes")
def environment_of_a_process(host: Host) -> str:
    return Path(f"/proc/{host['victim']}/environ").read_text()


@attempt("reads the memory of a process of the host", SECRET, "the host's processes")
def memory_of_a_process(host: Host) -> str:
    with Path(f"/proc/{host['victim']}/mem").open("rb") as file:
        file.seek(host["victim_secret_at"])
        return file.read(64).decode(errors="replace")


@attempt("writes into the memory of a process of the host", NOTED, "the host's processes")
def write_memory_of_a_process(host: Host) -> str:
    handle = os.open(f"/proc/{host['victim']}/mem", os.O_WRONLY)
    os.pwrite(handle, b"poked by /proc", host["victim_scratch_at"])
    return ""


@attempt("reads a file that only a process of the host has open", SECRET, "the host's processes")
def descriptor_of_a_process(host: Host) -> str:
    return Path(f"/proc/{host['victim']}/fd/{host['victim_fd']}").read_text()


@attempt("reads files through a host process's folder (/proc/…/cwd)", SECRET, "the host's processes")
def folder_of_a_process(host: Host) -> str:
    return Path(f"/proc/{host['victim']}/cwd/secret").read_text()


@attempt(
    "names a program to start when a control group is empty (release_agent)", LOOT, "root with SYS_ADMIN, no filter"
)
def release_agent(host: Host) -> str:
    where = b"/tmp"
    call("mount", b"none", where, b"cgroup", 0, f"none,name={host['shm_name']}".encode())  # a new one
    try:
        agent = Path("/tmp/release_agent")
        agent.write_text("/nonexistent")
        return agent.read_text()
    finally:
        call("umount2", where, 2)


@attempt("reads the kernel's log from /dev/kmsg", LOOT, "root with the device /dev/kmsg and SYSLOG", absent="/dev/kmsg")
def kernel_log_device(host: Host) -> str:
    handle = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    return os.read(handle, _CHUNK).decode(errors="replace")


@attempt("rewrites the host's program behind /proc/…/exe (CVE-2019-5736)", NOTED, "root, a writable mount")
def program_behind_exe(host: Host) -> str:
    pid = os.posix_spawn("/models/tool", ["tool", "60"], {})
    try:
        handle = os.open(f"/proc/{pid}/exe", os.O_PATH)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    writer = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
    os.pwrite(writer, b"\0" * 16, os.fstat(writer).st_size)
    return ""


@attempt(
    "reads the host's files beyond a descriptor left open (CVE-2024-21626)", SECRET, "a folder of the host left open"
)
def leaked_descriptor(host: Host) -> str:
    for name in sorted(os.listdir("/proc/self/fd")):
        for path in (f"/proc/self/fd/{name}/secret", f"/proc/self/fd/{name}/../../../../../..{host['secret_file']}"):
            try:
                return Path(path).read_text()
            except OSError:
                continue
    raise FileNotFoundError(2, "no descriptor leads out")
