"""One figure of a route as it was measured: a moving average that fades to a guess, and percentiles of the newest."""

from collections import deque
from dataclasses import dataclass, field

WINDOW = 64
WEIGHT = 0.2
"""Of a new value in the average."""
HALF_LIFE_S = 3_600.0
"""How fast what was measured fades, so that a route once slow is tried again."""


def faded(age_s: float, half_life_s: float) -> float:
    """What is left of 1 after a while."""
    return float(0.5 ** (max(age_s, 0.0) / half_life_s))


@dataclass
class Measure:
    """`guess` is what is expected of a route that nobody tried."""

    guess: float
    average: float | None = None
    at: float = 0.0
    newest: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, value: float, now: float) -> None:
        """A measured value; the first one replaces the guess, later ones move what is left of the average."""
        before = self.expected(now)
        self.average = value if self.average is None else before + WEIGHT * (value - before)
        self.at = now
        self.newest.append(value)

    def expected(self, now: float) -> float:
        """The average, drawn to the guess the older it is."""
        if self.average is None:
            return self.guess
        return self.guess + (self.average - self.guess) * faded(now - self.at, HALF_LIFE_S)

    def percentile(self, percent: int) -> float | None:
        """By nearest rank among the newest values; None without any."""
        if not self.newest:
            return None
        ranked = sorted(self.newest)
        return ranked[-(-percent * len(ranked) // 100) - 1]
