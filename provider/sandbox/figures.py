"""What a container uses, read from its control groups: code inside can neither fake nor hide it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from provider.sandbox import processes

_GROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Figures:
    """One look: seconds, bytes, processes. Limits are 0 where there is none."""

    cpu_s: float = 0.0
    throttled: int = 0
    """Periods in which it wanted more of the processor than its share."""
    memory: int = 0
    memory_peak: int = 0
    memory_limit: int = 0
    oom_kills: int = 0
    pids: int = 0
    pids_limit: int = 0
    refused_pids: int = 0
    """How often it wanted more processes or threads than its limit."""
    read: int = 0
    written: int = 0


class Gauge:
    """Reads the control groups of one container, of either generation."""

    def __init__(self, groups: dict[str, Path]) -> None:
        self._groups = groups

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The container whose first process is `pid`; None if it is gone, or lives in no group of its own."""
        found: dict[str, Path] = {}
        for line in processes.control_groups(pid).splitlines():
            _, names, path = line.split(":", 2)
            if path == "/":
                continue
            for name in names.split(","):
                for mounted in (names, name) if name else ("", "unified"):
                    folder = _GROUPS / mounted / path.lstrip("/")
                    if folder.is_dir():
                        found.setdefault(name, folder)
        return cls(found) if found else None

    def read(self) -> Figures | None:
        """What it uses now; None if it has ended."""
        if not any(folder.is_dir() for folder in self._groups.values()):
            return None
        return self._read_old() if "memory" in self._groups else self._read_unified()

    def _read_old(self) -> Figures:
        throttled = self._table("cpu", "cpu.stat").get("nr_throttled", 0)
        io = [
            line.split()
            for name in ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes")
            for line in self._text("blkio", name).splitlines()
        ]
        return Figures(
            cpu_s=self._number("cpuacct", "cpuacct.usage") / 1e9,
            throttled=throttled,
            memory=self._number("memory", "memory.usage_in_bytes"),
            memory_peak=self._number("memory", "memory.max_usage_in_bytes"),
            memory_limit=self._number("memory", "memory.limit_in_bytes"),
            oom_kills=self._table("memory", "memory.oom_control").get("oom_kill", 0),
            pids=self._number("pids", "pids.current"),
            pids_limit=self._number("pids", "pids.max"),
            refused_pids=self._table("pids", "pids.events").get("max", 0),
            read=_largest(io, "Read"),
            written=_largest(io, "Write"),
        )

    def _read_unified(self) -> Figures:
        cpu = self._table("", "cpu.stat")
        io = [part.split("=") for part in self._text("", "io.stat").split() if "=" in part]
        memory = self._number("", "memory.current")
        return Figures(
            cpu_s=cpu.get("usage_usec", 0) / 1e6,
            throttled=cpu.get("nr_throttled", 0),
            memory=memory,
            memory_peak=max(memory, self._number("", "memory.peak")),
            memory_limit=self._number("", "memory.max"),
            oom_kills=self._table("", "memory.events").get("oom_kill", 0),
            pids=self._number("", "pids.current"),
            pids_limit=self._number("", "pids.max"),
            refused_pids=self._table("", "pids.events").get("max", 0),
            read=sum(int(value) for name, value in io if name == "rbytes"),
            written=sum(int(value) for name, value in io if name == "wbytes"),
        )

    def _number(self, controller: str, name: str) -> int:
        text = self._text(controller, name).strip()
        return int(text) if text.isdigit() and int(text) < _NO_LIMIT else 0

    def _table(self, controller: str, name: str) -> dict[str, int]:
        rows = (line.split() for line in self._text(controller, name).splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}

    def _text(self, controller: str, name: str) -> str:
        try:
            return (self._groups[controller] / name).read_text()
        except (OSError, KeyError):
            return ""


def _largest(rows: list[list[str]], kind: str) -> int:
    """Of two files that count the same, one of them with the groups below: the sum of the fuller one."""
    totals: dict[str, list[int]] = {}
    for row in rows:
        if len(row) == 3 and row[1] == kind:
            totals.setdefault(row[0], []).append(int(row[2]))
    return sum(max(values) for values in totals.values())
