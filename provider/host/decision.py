"""Whether the machine is lent out now: a pure function of readings, limits and time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from provider.host.readings import Readings
from provider.host.schedule import ALWAYS, Schedule

EASE = 0.9
"""A limit that was passed counts as kept again at this part of it, so that values around it do not open and close."""


@dataclass(frozen=True)
class HostLimits:
    """What the owner allows; None is no limit. Bytes, °C, watts, percent of the whole machine, seconds.

    The gate reopens when every limit has been kept for `settle_s`. A reading that cannot be taken limits nothing.
    """

    schedule: Schedule = ALWAYS
    pause_while_in_use_s: float | None = None
    max_other_cpu_percent: float | None = None
    min_free_memory: int | None = None
    min_free_vram: int | None = None
    max_temperature_c: float | None = None
    max_power_w: float | None = None
    on_battery: bool = False
    settle_s: float = 30.0

    def unreadable(self, readings: Readings) -> list[str]:
        """The limits that cannot be watched on this machine."""
        pairs = [
            ("pause_while_in_use", self.pause_while_in_use_s, readings.user_idle_s),
            ("max_other_cpu", self.max_other_cpu_percent, readings.other_cpu_percent),
            ("free_memory", self.min_free_memory, readings.free_memory),
            ("free_vram", self.min_free_vram, readings.free_vram),
            ("max_temperature_c", self.max_temperature_c, readings.temperature_c),
            ("max_power_w", self.max_power_w, readings.power_w),
        ]
        return [name for name, limit, reading in pairs if limit is not None and reading is None]


@dataclass(frozen=True)
class Decision:
    """Open, or paused for these reasons; `calm_since` is the `at` of the first readings that kept every limit again."""

    is_open: bool
    reasons: tuple[str, ...] = ()
    calm_since: float | None = None


def decide(readings: Readings, limits: HostLimits, local: datetime, before: Decision | None) -> Decision:
    """The state after these readings. `local` is the owner's wall clock, `before` the state until now."""
    if reasons := tuple(_broken(readings, limits, local, ease=1.0)):
        return Decision(is_open=False, reasons=reasons)
    if before is None or before.is_open:
        return Decision(is_open=True)
    if reasons := tuple(_broken(readings, limits, local, ease=EASE)):
        return Decision(is_open=False, reasons=reasons)
    calm_since = readings.at if before.calm_since is None else before.calm_since
    if readings.at - calm_since >= limits.settle_s:
        return Decision(is_open=True)
    return Decision(is_open=False, reasons=("the owner's limits are kept again, for a moment",), calm_since=calm_since)


def _broken(readings: Readings, limits: HostLimits, local: datetime, ease: float) -> Iterator[str]:
    """What speaks against serving; an `ease` below 1 tightens every limit that has a size."""
    if not limits.schedule.is_open(local):
        yield "the owner's schedule does not lend the machine out now"
    if _below(readings.user_idle_s, limits.pause_while_in_use_s, 1.0):
        yield "somebody uses the machine"
    if _above(readings.other_cpu_percent, limits.max_other_cpu_percent, ease):
        yield "the owner's programs use the processor"
    if _below(readings.free_memory, limits.min_free_memory, ease):
        yield "the owner's programs use the memory"
    if _below(readings.free_vram, limits.min_free_vram, ease):
        yield "the owner's programs use the graphics memory"
    if _above(readings.temperature_c, limits.max_temperature_c, ease):
        yield "the machine is too hot"
    if _above(readings.power_w, limits.max_power_w, ease):
        yield "the machine uses too much power"
    if readings.on_battery and not limits.on_battery:
        yield "the machine runs on battery"


def _above(reading: float | None, limit: float | None, ease: float) -> bool:
    return reading is not None and limit is not None and reading > limit * ease


def _below(reading: float | None, limit: float | None, ease: float) -> bool:
    return reading is not None and limit is not None and reading < limit / ease
