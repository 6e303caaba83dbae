"""Reads the machine: processor, memory, temperatures and battery by psutil, people by utmp and logind, NVIDIA's tool.

Everything here may block for a moment, and belongs in a thread. What cannot be read is None, never an error.
"""

import contextlib
import math
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from provider.host.readings import Readings

TOOL_TIMEOUT_S = 5.0
RAPL = Path("/sys/class/powercap")
_GPU_FIELDS = "memory.free,temperature.gpu,power.draw"


@dataclass(frozen=True)
class Gpu:
    """One graphics card: bytes free, °C and watts, None where the driver does not tell."""

    free_vram: int | None
    temperature_c: float | None
    power_w: float | None


class Sensors:
    """Takes readings, one after the other: use of the processor is counted since the one before."""

    def __init__(self, engines: Callable[[], Iterable[int]] = tuple) -> None:
        """`engines` gives the ids of processes that work for the worker though they are not its children."""
        self._engines = engines
        self._gpu_tool: bool = True
        self._logind: bool = True
        self._cpu_before: tuple[float, float] | None = None
        self._own_before: dict[tuple[int, float], float] = {}
        self._energy_before: tuple[float, float] | None = None

    def read(self) -> Readings:
        """One look at everything."""
        gpus = self._gpus()
        temperatures = [*_temperatures(), *(gpu.temperature_c for gpu in gpus)]
        powers = [self._cpu_power(), *(gpu.power_w for gpu in gpus)]
        battery = _battery()
        return Readings(
            at=time.monotonic(),
            other_cpu_percent=self._other_cpu(),
            user_idle_s=self._user_idle(),
            free_memory=psutil.virtual_memory().available,
            free_vram=min((gpu.free_vram for gpu in gpus if gpu.free_vram is not None), default=None),
            temperature_c=max((each for each in temperatures if each is not None), default=None),
            power_w=_sum_known(powers),
            on_battery=None if battery is None else not battery[0],
            battery_percent=None if battery is None else battery[1],
        )

    # --- processor

    def _other_cpu(self) -> float | None:
        """Percent of all cores since the last call, without this process and its children."""
        times = psutil.cpu_times()
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy = total - times.idle - getattr(times, "iowait", 0.0)
        own = self._own_cpu()
        before, self._cpu_before = self._cpu_before, (total, busy)
        if before is None or total <= before[0]:
            return None
        return min(100.0, max(0.0, 100 * (busy - before[1] - own) / (total - before[0])))

    def _own_cpu(self) -> float:
        """Seconds of processor time that the worker and its processes used since the last call."""
        me = psutil.Process()
        now: dict[tuple[int, float], float] = {}
        for pid in {me.pid, *(child.pid for child in _children(me)), *self._engines()}:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                times = process.cpu_times()
                used = times.user + times.system
                if process.pid == me.pid:  # what children used that have ended meanwhile
                    used += times.children_user + times.children_system
                now[process.pid, process.create_time()] = used
        before, self._own_before = self._own_before, now
        ended = sum(used for key, used in before.items() if key not in now)
        grown = sum(used - before.get(key, 0.0) for key, used in now.items())
        return max(0.0, grown - ended)

    # --- people

    def _user_idle(self) -> float | None:
        terminals = _terminal_idle()
        sessions = self._session_idle()
        known = [idle for idle in (terminals, sessions) if idle is not None]
        return min(known, default=None)

    def _session_idle(self) -> float | None:
        """Seconds since a graphical session was used, as logind knows it; None without logind."""
        listed = self._loginctl("list-sessions", "--no-legend")
        if listed is None:
            return None
        idle = math.inf
        for line in listed.splitlines():
            properties = ("--property=IdleHint", "--property=IdleSinceHint", "--property=Type", "--property=State")
            shown = self._loginctl("show-session", line.split()[0], *properties) if line.split() else None
            idle = min(idle, _session_idle(shown or "", time.time()))
        return idle

    def _loginctl(self, *arguments: str) -> str | None:
        text = _run("loginctl", *arguments) if self._logind else None
        self._logind = self._logind and (text is not None or arguments[0] != "list-sessions")
        return text

    # --- graphics cards and power

    def _gpus(self) -> list[Gpu]:
        if not self._gpu_tool:
            return []
        text = _run("nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits")
        self._gpu_tool = text is not None
        return parse_gpus(text or "")

    def _cpu_power(self) -> float | None:
        """Watts of the processor packages since the last call, by Intel's and AMD's energy counters."""
        try:
            counters = [path / "energy_uj" for path in RAPL.glob("intel-rapl:?")]
            energy = sum(int(counter.read_text()) for counter in counters) / 1e6
        except (OSError, ValueError):
            return None
        if not counters:
            return None
        now = time.monotonic()
        before, self._energy_before = self._energy_before, (now, energy)
        if before is None or energy < before[1] or now <= before[0]:
            return None
        return (energy - before[1]) / (now - before[0])


def parse_gpus(text: str) -> list[Gpu]:
    """What `nvidia-smi --query-gpu=memory.free,temperature.gpu,power.draw --format=csv,noheader,nounits` prints."""
    gpus = []
    for line in text.splitlines():
        fields = [_number(field) for field in line.split(",")]
        if len(fields) == len(_GPU_FIELDS.split(",")):
            free, temperature, power = fields
            gpus.append(Gpu(None if free is None else round(free * 2**20), temperature, power))
    return gpus


def _session_idle(shown: str, now: float) -> float:
    """Seconds since a session was used, from `loginctl show-session`; infinite for what is no screen in use."""
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    if values.get("Type") not in ("x11", "wayland", "mir") or values.get("State") == "closing":
        return math.inf
    if values.get("IdleHint") != "yes":
        return 0.0
    since = _number(values.get("IdleSinceHint", ""))
    return math.inf if since is None else max(0.0, now - since / 1e6)


def _terminal_idle() -> float | None:
    """Seconds since anybody typed on a terminal; infinite when nobody is logged in on one."""
    try:
        users = psutil.users()
    except (OSError, RuntimeError):
        return None
    idle = math.inf
    for user in users:
        with contextlib.suppress(OSError, ValueError):
            idle = min(idle, max(0.0, time.time() - Path("/dev", user.terminal or "").stat().st_atime))
    return idle


def _temperatures() -> Iterable[float]:
    found: dict[str, list[psutil._ntuples.shwtemp]] = getattr(psutil, "sensors_temperatures", dict)()
    return [sensor.current for group in found.values() for sensor in group if sensor.current > 0]


def _battery() -> tuple[bool, float] | None:
    """Whether it is plugged in, and percent; None without a battery or when the plug is unknown."""
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    return None if battery is None or battery.power_plugged is None else (battery.power_plugged, battery.percent)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _sum_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _run(*command: str) -> str | None:
    """A tool's output, None when it is not there or does not work."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout
