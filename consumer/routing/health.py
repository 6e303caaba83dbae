"""What is known of each route from its own answers: how soon, how fast, how often, and whether it was caught lying.

Everything is measured here, nothing is the route's word. A route that nobody tried is expected to be good, so that it
gets its try. Kept in a file, which is advice: a damaged one is begun anew.
"""

import asyncio
import json
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consumer.gateway.events import FailureClass, Leg
from consumer.routing.measure import Measure, faded

_log = logging.getLogger(__name__)

GUESSED_TTFT_MS = 200.0
GUESSED_TOKENS_PER_S = 100.0
MOST_TOKENS_PER_S = 100_000.0
LEAST_TOKENS = 8
"""Shorter answers say nothing about throughput."""

TRUST_HALF_LIFE_S = 7 * 86_400.0
LIE = 0.5
"""What a lie caught in an answer leaves of a route's trust."""
SWAP = 0.05
"""What a swapped model leaves."""
FORGOTTEN_S = 30 * 86_400.0
MAX_ERRORS = 8
MAX_ERROR = 80
SAVED_EVERY_S = 60.0
EXPECTED_FOR_S = 1.0
FINISHED = "finished"
SWAPPED = "swapped_model"
_COUNTED = frozenset(
    {
        FailureClass.UNREACHABLE,
        FailureClass.TIMEOUT,
        FailureClass.OVERLOAD,
        FailureClass.AUTH,
        FailureClass.BAD_OUTPUT,
    }
)
"""Failures that are the route's own: rate limits are as much ours, money and bad requests only ours."""


@dataclass(frozen=True)
class Expected:
    """What a route's next answer will be like; `success` and `trust` in thousandths."""

    ttft_ms: int
    tokens_per_s: int
    success: int
    trust: int


@dataclass
class RouteHealth:
    """One route. Times are Unix seconds of this machine."""

    ttft_ms: Measure = field(default_factory=lambda: Measure(GUESSED_TTFT_MS))
    tokens_per_s: Measure = field(default_factory=lambda: Measure(GUESSED_TOKENS_PER_S))
    success: Measure = field(default_factory=lambda: Measure(1.0))
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MAX_ERRORS))
    distrust: float = 0.0
    distrusted_at: float = 0.0
    seen_at: float = 0.0
    _expected: tuple[float, Expected] | None = None

    def expected(self, now: float) -> Expected:
        """Kept until something happens or a second has passed, for it is asked for every request."""
        if self._expected is None or not 0 <= now - self._expected[0] < EXPECTED_FOR_S:
            found = Expected(
                round(self.ttft_ms.expected(now)),
                round(self.tokens_per_s.expected(now)),
                round(1_000 * self.success.expected(now)),
                round(1_000 * self.trust(now)),
            )
            self._expected = (now, found)
        return self._expected[1]

    def touch(self, now: float) -> None:
        """Something happens."""
        self.seen_at = now
        self._expected = None

    def trust(self, now: float) -> float:
        """From 1 for who was never caught down to 0."""
        return 1.0 - self.distrust * faded(now - self.distrusted_at, TRUST_HALF_LIFE_S)

    @property
    def distrusted_for(self) -> str:
        """Why there is little trust."""
        if self.outcomes[SWAPPED]:
            return "another model than the one that is sold was found behind it"
        return "it was caught giving false answers"

    def lower_trust(self, left: float, now: float) -> None:
        """Leaves this part of the trust there was."""
        self.distrust = 1.0 - self.trust(now) * left
        self.distrusted_at = now

    def shown(self, now: float) -> dict[str, Any]:
        """For people."""
        return {
            "ttft_ms": round(self.ttft_ms.expected(now)),
            "ttft_ms_p50": self.ttft_ms.percentile(50),
            "ttft_ms_p95": self.ttft_ms.percentile(95),
            "tokens_per_s": round(self.tokens_per_s.expected(now), 1),
            "tokens_per_s_p50": self.tokens_per_s.percentile(50),
            "tokens_per_s_p95": self.tokens_per_s.percentile(95),
            "success": round(self.success.expected(now), 3),
            "trust": round(self.trust(now), 3),
            "outcomes": dict(self.outcomes),
            "errors": [{"at": int(at), "error": text} for at, text in self.errors],
        }


_UNTRIED = RouteHealth()


class Health:
    """All routes, by name. `path` is the file they are kept in between runs, `now` the clock in Unix seconds."""

    def __init__(self, path: Path | None = None, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._routes: dict[str, RouteHealth] = {}
        if path is not None and path.exists():
            self._load(path)

    def of(self, route: str) -> RouteHealth:
        """A route's health, to be read only."""
        return self._routes.get(route, _UNTRIED)

    def answered(self, route: str, leg: Leg) -> None:
        """An answer, whole or not, that the route is not to blame for."""
        health, now = self._touched(route)
        is_finished = leg.ended == FINISHED
        if leg.ttft_ms > 0:
            health.ttft_ms.add(float(leg.ttft_ms), now)
        streamed_ms = leg.duration_ms - leg.ttft_ms
        if leg.completion_tokens >= LEAST_TOKENS and streamed_ms > 0:
            speed = (leg.completion_tokens - 1) * 1000 / streamed_ms
            health.tokens_per_s.add(min(speed, MOST_TOKENS_PER_S), now)
        health.outcomes["finished" if is_finished else "broken_off"] += 1
        if is_finished:
            health.success.add(1.0, now)

    def failed(self, route: str, failure: FailureClass, code: str) -> None:
        """A failure; bad output lowers the trust. Messages are not kept: they may quote prompts."""
        health, now = self._touched(route)
        health.outcomes[failure.value] += 1
        health.errors.append((now, f"{failure.value}: {code}"[:MAX_ERROR]))
        if failure in _COUNTED:
            health.success.add(0.0, now)
        if failure is FailureClass.BAD_OUTPUT:
            health.lower_trust(LIE, now)

    def swapped(self, route: str) -> None:
        """Another model than the one sold was found behind a route."""
        health, now = self._touched(route)
        health.outcomes[SWAPPED] += 1
        health.errors.append((now, SWAPPED))
        health.lower_trust(SWAP, now)

    def shown(self) -> dict[str, dict[str, Any]]:
        """All routes, for people."""
        now = self._now()
        return {route: health.shown(now) for route, health in sorted(self._routes.items())}

    async def run(self) -> None:
        """Keeps the file up to date until cancelled."""
        try:
            while True:
                await asyncio.sleep(SAVED_EVERY_S)
                await asyncio.to_thread(self._write, self._encoded())
        finally:
            self.save()

    def save(self) -> None:
        """Replaces the file at once, or leaves the one before."""
        self._write(self._encoded())

    def _write(self, text: str) -> None:
        if self._path is None:
            return
        draft = self._path.with_suffix(".new")
        try:
            draft.write_text(text)
            draft.replace(self._path)
        except OSError as error:
            _log.warning("%s cannot be written (%s): what is known of the routes is lost at the end", self._path, error)

    def _encoded(self) -> str:
        return json.dumps({route: _encoded(health) for route, health in self._routes.items()})

    def now(self) -> float:
        """This machine's time."""
        return self._now()

    def _touched(self, route: str) -> tuple[RouteHealth, float]:
        now = self._now()
        health = self._routes.setdefault(route, RouteHealth())
        health.touch(now)
        return health, now

    def _load(self, path: Path) -> None:
        try:
            stored = json.loads(path.read_text())
            routes = {str(route): _decoded(value) for route, value in stored.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("%s is damaged (%s): what was known of the routes is measured anew", path, error)
            return
        now = self._now()
        self._routes = {route: health for route, health in routes.items() if now - health.seen_at < FORGOTTEN_S}


_MEASURES = ("ttft_ms", "tokens_per_s", "success")


def _encoded(health: RouteHealth) -> dict[str, Any]:
    measures = {name: getattr(health, name) for name in _MEASURES}
    return {
        **{name: [measure.average, measure.at, list(measure.newest)] for name, measure in measures.items()},
        "outcomes": dict(health.outcomes),
        "errors": list(health.errors),
        "trust": [health.distrust, health.distrusted_at],
        "seen_at": health.seen_at,
    }


def _decoded(value: dict[str, Any]) -> RouteHealth:
    health = RouteHealth()
    for name in _MEASURES:
        average, at, newest = value[name]
        measure: Measure = getattr(health, name)
        measure.average = None if average is None else _number(average)
        measure.at = _number(at)
        measure.newest.extend(_number(each) for each in newest)
    health.outcomes.update({str(name): int(count) for name, count in value["outcomes"].items()})
    health.errors.extend((_number(at), str(text)) for at, text in value["errors"])
    health.distrust, health.distrusted_at = (_number(each) for each in value["trust"])
    health.seen_at = _number(value["seen_at"])
    return health


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number
