"""What this machine lends: processor cores and memory, within the limits of a container (cgroup v2)."""

import os
from pathlib import Path

import psutil

_GROUP = Path("/sys/fs/cgroup")


def usable_cores(group: Path = _GROUP) -> int:
    """Cores this process may use at once, at least one."""
    cores = len(os.sched_getaffinity(0))
    quota, _, period = _read(group / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def usable_memory(group: Path = _GROUP) -> int:
    """Bytes of memory this process may fill, whoever uses them now."""
    total = int(psutil.virtual_memory().total)
    limit = _read(group / "memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def engine_threads(wanted: int | None, engines: int, group: Path = _GROUP) -> int:
    """Threads for each of `engines` engines that may work at once.

    `wanted` is for all together, by default all cores but one; more than there are cores would wait for each other.
    """
    cores = usable_cores(group)
    together = min(wanted, cores) if wanted else max(1, cores - 1)
    return max(1, together // max(1, engines))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
