"""What the machine says of itself at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Readings:
    """None is what cannot be read here, which is not the same as zero.

    `at` is a monotonic clock's seconds. `other_cpu_percent` is of the whole machine, without the worker and its
    processes. `user_idle_s` is since the last sign of anybody logged in, infinite when nobody is.
    """

    at: float
    other_cpu_percent: float | None = None
    user_idle_s: float | None = None
    free_memory: int | None = None
    free_vram: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    on_battery: bool | None = None
    battery_percent: float | None = None
