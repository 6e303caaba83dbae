"""What must be the same on the host before and after the attempts, whatever they tried."""

# ruff: noqa: PTH110

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from provider.sandbox import processes
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.policy import USER

_SETTINGS = ("kernel/core_pattern", "kernel/hostname", "kernel/domainname", "vm/overcommit_memory", "kernel/modprobe")
_ALARMS = ("BUG:", "Oops", "general protection fault", "kernel panic", "use-after-free", "refcount_t")


def look(paths: SandboxPaths) -> dict[str, Any]:
    """Only what attempts could have touched: other programs of this machine come and go meanwhile.

    Names that the suite gives hold the name of its daemon's folder.
    """
    mark = paths.state.parent.name
    return {
        "processes": sorted(_processes(str(paths.state.parent))),
        "mounts": sorted(line.split()[4] for line in _lines("/proc/self/mountinfo") if str(paths.state.parent) in line),
        "files": sorted(str(path) for path in paths.share.rglob("*") if "stage-" in str(path)),
        "sockets": sorted(line.split()[-1] for line in _lines("/proc/net/unix") if mark in line and "@" in line),
        "settings": {name: _text(f"/proc/sys/{name}") for name in _SETTINGS},
        "shared memory": [line for line in _lines("/proc/sysvipc/shm") if f" {USER} " in line],
        "queues": [line for line in _lines("/proc/sysvipc/msg") if f" {USER} " in line],
        "files in /dev/shm": sorted(path.name for path in Path("/dev/shm").glob(f"*{mark}*")),
        "keys": sorted(line.split(None, 7)[-1] for line in _keys() if mark in line),
        "hierarchies": sorted(line for line in _lines("/proc/self/cgroup") if mark in line),
        "alarms of the kernel": _alarms(),
    }


def _processes(folder: str) -> Iterator[str]:
    """Programs that have this daemon's folder in their arguments, and what they started: the daemon's and the suite's.

    The daemon, what watches its containers, the containers' own, and what stands for the host; no other test's.
    """
    named = {pid for pid in processes.all_pids() if any(folder in each for each in processes.command_line(pid))}
    for pid in named | processes.descendants(named):
        if line := processes.command_line(pid):
            yield line[0]


def _keys() -> list[str]:
    """As the containers' user sees them: not even root is shown the keys of others."""
    if not os.path.exists("/proc/keys"):
        return []
    shown = subprocess.run(
        ["cat", "/proc/keys"], capture_output=True, text=True, check=True, user=USER, group=USER, extra_groups=[]
    )
    return shown.stdout.splitlines()


def _alarms() -> list[str]:
    done = subprocess.run(["dmesg"], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if any(alarm in line for alarm in _ALARMS)]


def _lines(path: str) -> list[str]:
    return _text(path).splitlines()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip() if os.path.exists(path) else ""
    except OSError:
        return ""
