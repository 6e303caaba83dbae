"""When in a week the machine is lent out, in its owner's local time."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"([a-z,-]+) ([0-9]{2}:[0-9]{2})-([0-9]{2}:[0-9]{2})", re.ASCII)
_MIDNIGHT = time()


@dataclass(frozen=True)
class Window:
    """From `start` to before `end` on these `days` (0 is Monday); an end not after the start is on the day after."""

    days: frozenset[int]
    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> "Window":
        """`mon-fri 19:00-07:00`, `sat,sun 00:00-24:00`, `daily 22:00-06:00`. Raises ValueError."""
        found = _WINDOW.fullmatch(text)
        if found is None:
            raise ValueError(f'{text!r} is not written like "mon-fri 19:00-07:00"')
        return cls(_days(found[1]), _time(found[2]), _time(found[3], ends=True))

    def contains(self, day: int, at: time) -> bool:
        """Whether a wall clock showing `at` on this weekday is within."""
        if self.start < self.end:
            return day in self.days and self.start <= at < self.end
        return (day in self.days and at >= self.start) or ((day - 1) % 7 in self.days and at < self.end)


@dataclass(frozen=True)
class Schedule:
    """Open within any of its windows; always open when there are none.

    Only the wall clock counts: in the hour that a change to winter time repeats, both hours count alike, and one that a
    change to summer time leaves out is simply not there.
    """

    windows: tuple[Window, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Schedule":
        """From the lines of a configuration. Raises ValueError."""
        return cls(tuple(Window.parse(text) for text in texts))

    def is_open(self, local: datetime) -> bool:
        """Whether the machine is lent out at this local time."""
        return not self.windows or any(window.contains(local.weekday(), local.time()) for window in self.windows)

    def seconds_to_opening(self, local: datetime) -> float:
        """How long from an aware local time until the next window begins, 0 when one is open."""
        if self.is_open(local):
            return 0.0
        starts = [
            begins
            for ahead in range(9)
            for window in self.windows
            if (begins := _begins(window, local.date() + timedelta(days=ahead), local)) is not None
        ]
        return min((begins.astimezone(UTC) - local.astimezone(UTC)).total_seconds() for begins in starts)


ALWAYS = Schedule()


def _begins(window: Window, day: date, after: datetime) -> datetime | None:
    if day.weekday() not in window.days:
        return None
    begins = datetime.combine(day, window.start, after.tzinfo)
    return begins if begins.astimezone(UTC) > after.astimezone(UTC) else None


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, *last = part.split("-")
        if len(last) > 1 or any(day not in DAYS for day in (first, *last)):
            raise ValueError(f"{part!r} is not a day, nor two with a - between them: {', '.join(DAYS)}")
        start = DAYS.index(first)
        count = (DAYS.index(last[0]) - start) % 7 if last else 0
        found.update((start + step) % 7 for step in range(count + 1))
    return frozenset(found)


def _time(text: str, *, ends: bool = False) -> time:
    if ends and text == "24:00":
        return _MIDNIGHT
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time from 00:00 to 23:59") from None
