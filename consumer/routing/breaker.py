"""When a route that failed may be asked again: a cooldown for each route and class of failure, doubling while it lasts.

After the cooldown one trial is let through. If it succeeds the class is forgotten; if it fails the same way the
cooldown doubles. Nothing is random, and no class touches another's state. Failures that say nothing about the route
(the application's request, the user's money) never count, and neither does a single timeout: one slow stream is no
reason to doubt the others.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from consumer.gateway.events import FailureClass

TRIAL_S = 60.0
"""After this a trial of which nothing was heard no longer keeps others out."""
MAX_RETRY_AFTER_S = 3_600.0
"""The longest wait that a route may ask for itself."""


@dataclass(frozen=True)
class Rule:
    """`after` failures in a row open a cooldown of `first_s`, which doubles up to `longest_s`."""

    first_s: float
    longest_s: float
    after: int = 1


RULES = {
    FailureClass.UNREACHABLE: Rule(5, 300),
    FailureClass.TIMEOUT: Rule(10, 300, after=3),
    FailureClass.RATE_LIMIT: Rule(2, 120),
    FailureClass.OVERLOAD: Rule(2, 60),
    FailureClass.AUTH: Rule(60, 3_600),
    FailureClass.BAD_OUTPUT: Rule(60, 86_400),
}


@dataclass
class _State:
    failures: int = 0
    openings: int = 0
    open_until: float = 0.0
    trial_until: float = 0.0


@dataclass(frozen=True)
class Cooldown:
    """A class of failure that keeps a route out for `left_s` more."""

    failure: FailureClass
    left_s: float


class Breaker:
    """All routes' cooldowns; `now` is a clock that never goes back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._states: dict[str, dict[FailureClass, _State]] = {}

    def cooldown(self, route: str) -> Cooldown | None:
        """What keeps a route out longest, None if it may be asked."""
        if route not in self._states:
            return None
        now = self._now()
        closed = [Cooldown(failure, self._until(state) - now) for failure, state in self._states[route].items()]
        return max((each for each in closed if each.left_s > 0), key=lambda each: each.left_s, default=None)

    def begin(self, route: str) -> bool:
        """Whether a route may be asked now; if it was cooling down, this is its one trial."""
        if self.cooldown(route) is not None:
            return False
        now = self._now()
        for state in self._half_open(route, now):
            state.trial_until = now + TRIAL_S
        return True

    def failed(self, route: str, failure: FailureClass, retry_after_s: float | None = None) -> None:
        """A route failed. What was under way when its cooldown began does not lengthen it."""
        rule = RULES.get(failure)
        if rule is None:
            self.abandoned(route)
            return
        now = self._now()
        state = self._states.setdefault(route, {}).setdefault(failure, _State())
        state.trial_until = 0.0
        if now >= state.open_until:
            state.failures += 1
            if state.failures >= rule.after:
                state.openings += 1
                doubled: float = rule.first_s * 2 ** min(state.openings - 1, 30)
                state.open_until = now + min(doubled, rule.longest_s)
        if retry_after_s is not None:
            state.open_until = max(state.open_until, now + min(max(retry_after_s, 0.0), MAX_RETRY_AFTER_S))

    def succeeded(self, route: str) -> None:
        """A route answered to the end: every class whose cooldown is over is forgotten."""
        now = self._now()
        states = self._states.get(route, {})
        for failure in [each for each, state in states.items() if now >= state.open_until]:
            del states[failure]
        if not states:
            self._states.pop(route, None)

    def abandoned(self, route: str) -> None:
        """A route's answer ended without success or failure: its trial is free again."""
        for state in self._states.get(route, {}).values():
            state.trial_until = 0.0

    def _half_open(self, route: str, now: float) -> Iterator[_State]:
        for state in self._states.get(route, {}).values():
            if state.openings and now >= state.open_until:
                yield state

    def _until(self, state: _State) -> float:
        return max(state.open_until, state.trial_until)
