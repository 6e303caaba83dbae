"""What the gateway has done lately: figures for Prometheus, and the last requests for people; never what was said."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from consumer.gateway.app_used import cost
from consumer.gateway.events import FailureClass, Leg, RouteFailed

KEPT = 100
_FIRST_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True)
class Outcome:
    """How one request went; `ended` is "finished", "cancelled", or the class of its failure."""

    path: str
    model: str
    route: str
    ended: str
    legs: tuple[Leg, ...]
    ttft_s: float
    duration_s: float


class Requests:
    """All requests since the start, counted."""

    def __init__(self, most: int) -> None:
        """`most` may run at once."""
        self.running = 0
        self._most = most
        self._recent: deque[tuple[float, Outcome]] = deque(maxlen=KEPT)
        self._registry = registry = CollectorRegistry()
        self._ended = Counter("clawmarket_requests", "Requests.", ["path", "route", "ended"], registry=registry)
        self._tokens = Counter("clawmarket_tokens", "Tokens.", ["route", "direction"], registry=registry)
        self._cost = Counter("clawmarket_cost", "Paid, in base units.", ["route", "token"], registry=registry)
        self._first = Histogram(
            "clawmarket_first_part_seconds", "Time to an answer's first part.", buckets=_FIRST_S, registry=registry
        )
        gauge = Gauge("clawmarket_requests_running", "Requests running.", registry=registry)
        gauge.set_function(lambda: self.running)

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Around one request. Raises RouteFailed when there is no room."""
        if self.running >= self._most:
            raise RouteFailed(
                FailureClass.OVERLOAD, "the gateway has no room now", status=503, code="overloaded", retry_after_s=1
            )
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def ended(self, outcome: Outcome) -> None:
        """After a request."""
        self._recent.appendleft((time.time(), outcome))
        self._ended.labels(outcome.path, outcome.route, outcome.ended).inc()
        if outcome.ended == "finished":
            self._first.observe(outcome.ttft_s)
        for leg in outcome.legs:
            self._tokens.labels(leg.route, "in").inc(leg.prompt_tokens)
            self._tokens.labels(leg.route, "out").inc(leg.completion_tokens)
            if leg.cost:
                self._cost.labels(leg.route, leg.symbol).inc(leg.cost)

    def recent(self) -> list[dict[str, Any]]:
        """The last ones, newest first."""
        return [
            {
                "at": at,
                "path": outcome.path,
                "model": outcome.model,
                "route": outcome.route,
                "ended": outcome.ended,
                "tokens": sum(leg.completion_tokens for leg in outcome.legs),
                "cost": cost(list(outcome.legs)),
                "ttft_ms": round(outcome.ttft_s * 1000),
                "duration_ms": round(outcome.duration_s * 1000),
            }
            for at, outcome in self._recent
        ]

    def metrics(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
