"""Processes of this machine, told apart beyond their numbers, which come back."""

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def all_pids() -> Iterator[int]:
    """Every process there is now."""
    yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def command_line(pid: int) -> list[str]:
    """Its arguments; empty if it is gone."""
    return [part.decode(errors="replace") for part in _read(pid, "cmdline").split(b"\0")[:-1]]


def control_groups(pid: int) -> str:
    """The groups it is in."""
    return _read(pid, "cgroup").decode(errors="replace")


def status(pid: int) -> dict[str, str]:
    """What the kernel says of it, by name; empty if it is gone."""
    lines = _read(pid, "status").decode(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def parent(pid: int) -> int:
    """Its parent, 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def descendants(pids: set[int]) -> set[int]:
    """Children of `pids`, and theirs."""
    parents = {pid: parent(pid) for pid in all_pids()}
    found: set[int] = set()
    fresh = set(pids)
    while fresh := {pid for pid, above in parents.items() if above in fresh} - found:
        found |= fresh
    return found


def identity(pid: int | None = None) -> str:
    """A name for a running process that no later one gets, on this machine or after a restart of it."""
    pid = os.getpid() if pid is None else pid
    return f"{boot_id()}.{pid}.{_start_time(pid)}"


def is_running(named: str) -> bool:
    """Whether the process with this identity still runs."""
    boot, _, rest = named.partition(".")
    number, _, started = rest.partition(".")
    return boot == boot_id() and number.isdigit() and started != "" and _start_time(int(number)) == started


def boot_id() -> str:
    """Differs after each start of the machine."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended yet."""
    return _start_time(pid) != ""


def _start_time(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in ("Z", "X") else ""


def _stat(pid: int) -> list[str]:
    """From the state on: a name in brackets comes before it and may hold anything."""
    return _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""
