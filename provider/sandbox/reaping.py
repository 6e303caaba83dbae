"""Ends what a dead daemon left: its containerd, the shims of its containers, their processes, its mounts.

Only what names this daemon's own folders is touched.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from provider.sandbox import processes
from provider.sandbox.paths import SandboxPaths

_WAIT_S = 10.0


def leftovers(paths: SandboxPaths) -> set[int]:
    """Processes of this daemon's containers, and its containerd. Call it only while the daemon does not run."""
    lines = {pid: processes.command_line(pid) for pid in processes.all_pids()}
    address = str(paths.exec_root / "containerd" / "containerd.sock")
    containerd = str(paths.exec_root / "containerd" / "containerd.toml")
    found = {pid for pid, line in lines.items() if containerd in line}
    shims = {pid for pid, line in lines.items() if line and "containerd-shim" in line[0] and address in line}
    containers = {line[line.index("-id") + 1] for pid in shims if "-id" in (line := lines[pid])[:-1]}
    containers |= _recorded(paths)
    for pid, line in lines.items():
        groups = processes.control_groups(pid)
        if any(container in groups or container in line for container in containers):
            found.add(pid)
    return (found | shims | processes.descendants(shims)) - {os.getpid()}


def reap(paths: SandboxPaths) -> int:
    """Kills the leftovers and unmounts; returns how many processes there were."""
    count = 0
    end = time.monotonic() + _WAIT_S
    while (found := leftovers(paths)) and time.monotonic() < end:
        count = max(count, len(found))
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for mount in _mounts_under(paths.data, paths.exec_root):
        subprocess.run(["umount", "--lazy", str(mount)], check=False, capture_output=True)
    # A killed containerd may stay a zombie for ever, and the daemon would wait for it by its number.
    containerd = (paths.exec_root / "containerd" / name for name in ("containerd.pid", "containerd.sock"))
    for file in (paths.pid_file, paths.socket, *containerd):
        file.unlink(missing_ok=True)
    return count


def _recorded(paths: SandboxPaths) -> set[str]:
    """Containers the daemon has on record, whose shim may be gone already."""
    try:
        return {entry.name for entry in (paths.data / "containers").iterdir()}
    except OSError:
        return set()


def _mounts_under(*folders: Path) -> list[Path]:
    """The deepest first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if any(point.is_relative_to(folder) for folder in folders):
            points.append(point)
    return sorted(points, key=lambda point: len(point.parts), reverse=True)
