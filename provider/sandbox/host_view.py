"""What the host itself sees of a running container: facts that code inside can neither fake nor hide."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from provider.sandbox import processes

_GROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
_ALIKE = 3
_PAUSE_S = 0.05
_SETTLED_S = 5.0


@dataclass(frozen=True)
class HostView:
    """`platform` is how gVisor catches system calls: "systrap", "ptrace", or empty where neither is seen.

    `is_kernel_filtered`: whether the process that the daemon started runs under a system call filter itself, without a
    way to new privileges. Limits in bytes, processes, cores; None where there is none. `shared` are namespaces of the
    host that it is in; None where this user may not look.
    """

    platform: str
    is_kernel_filtered: bool
    memory: int | None
    pids: int | None
    cpus: float | None
    shared: tuple[str, ...] | None


def look(pid: int) -> HostView:
    """At the container whose first process is `pid`."""
    state = processes.status(pid)
    return HostView(
        platform=_platform(pid),
        is_kernel_filtered=state.get("Seccomp") == "2" and state.get("NoNewPrivs") == "1",
        memory=_number(_limit(pid, "memory", "memory.limit_in_bytes", "memory.max")),
        pids=_number(_limit(pid, "pids", "pids.max", "pids.max")),
        cpus=_cpus(pid),
        shared=_shared_namespaces(pid),
    )


def settled(pid: int) -> HostView:
    """The container once it shows the same platform three times in a row.

    Systrap, too, traces a guest's process for a moment: while it makes it.
    """
    view, alike = look(pid), 1
    end = time.monotonic() + _SETTLED_S
    while alike < _ALIKE and time.monotonic() < end:
        time.sleep(_PAUSE_S)
        before, view = view, look(pid)
        alike = alike + 1 if view.platform == before.platform else 1
    return view


def innermost(pid: int) -> int:
    """The last in a chain of only children: what a launcher finally started."""
    while len(below := [child for child in processes.descendants({pid}) if processes.parent(child) == pid]) == 1:
        pid = below[0]
    return pid


def _platform(sentry: int) -> str:
    """gVisor runs a guest's code in processes below its own.

    With ptrace threads of gVisor trace them. With systrap nobody does: they answer for themselves under a filter, each
    guest process started by a process of its own below gVisor.
    """
    children = processes.descendants({sentry})
    tracers = {int(task.name) for task in Path(f"/proc/{sentry}/task").glob("*")}
    states = {child: processes.status(child) for child in children}
    if any(int(state.get("TracerPid", "0")) in tracers for state in states.values()):
        return "ptrace"
    guests = [state for state in states.values() if int(state.get("PPid", "0")) in children]
    if guests and all(state.get("TracerPid") == "0" and state.get("Seccomp") == "2" for state in guests):
        return "systrap"
    return ""


def _limit(pid: int, controller: str, old_name: str, name: str) -> str:
    """A limit's text, from whichever generation of control groups governs it."""
    unified = ""
    for line in processes.control_groups(pid).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return _text(_GROUPS / controllers / path.lstrip("/") / old_name) or _text(
                _GROUPS / controller / path.lstrip("/") / old_name
            )
        if not controllers:
            unified = path
    return _text(_GROUPS / unified.lstrip("/") / name)


def _cpus(pid: int) -> float | None:
    text = _limit(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()
    if len(text) == 1:
        text += _limit(pid, "cpu", "cpu.cfs_period_us", "cpu.max").split()
    if len(text) < 2 or not (text[0].isdigit() and text[1].isdigit()):
        return None
    return int(text[0]) / int(text[1])


def _shared_namespaces(pid: int) -> tuple[str, ...] | None:
    try:
        return tuple(
            name
            for name in ("ipc", "mnt", "net", "pid", "uts")
            if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")  # noqa: PTH115
        )
    except PermissionError:
        return None
    except OSError:
        return ()


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
