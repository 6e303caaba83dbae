"""Asking a second route when the first is silent, within what that may cost a day.

A route that loses is cancelled and paid for what it had delivered; a winner is paid as any. What a day's winners cost
is the bound, those under way or broken off counted with the most that they may cost: beyond it nothing is hedged until
the next day (UTC).
"""

import json
from collections.abc import Callable

from consumer.asked import read
from consumer.checks import most_cost
from consumer.gateway.events import Asked, Leg
from consumer.gateway.settings import HedgeSettings
from consumer.routing.routes import Route

DAY_S = 86_400


class HedgeBudget:
    """What hedges cost today; a restart begins anew."""

    def __init__(self, settings: HedgeSettings, now: Callable[[], int]) -> None:
        """`now` is the market's clock in Unix seconds."""
        self.after_s = settings.after_ms / 1000
        self._most = settings.max_extra
        self._now = now
        self._day = 0
        self._spent = 0
        self._held = 0

    def hold(self, route: Route, asked: Asked) -> int | None:
        """Sets aside what a route may cost, to be settled; None if that is beyond today's limit."""
        today = self._now() // DAY_S
        if today != self._day:
            self._day, self._spent = today, 0
        most = most_of(route, asked)
        if most and self._spent + self._held + most > self._most.units:
            return None
        self._held += most
        return most

    def settle(self, held: int, leg: Leg | None, *, has_won: bool = False) -> None:
        """The hedge has ended; `leg` is its answer, if it won. A winner that never told its end may have cost all."""
        self._held -= held
        if leg is None:
            self._spent += held if has_won else 0
        elif leg.symbol == self._most.token.symbol:
            self._spent += leg.cost


def most_of(route: Route, asked: Asked) -> int:
    """The most that a route's answer can cost, without knowing its tokenizer."""
    if route.candidate is None:
        return 0
    terms = route.candidate.offer.terms
    paid = read(asked.path, json.dumps(asked.content).encode(), terms, None)
    return most_cost(terms, paid.limits.prompt_bound, paid.limits.max_tokens) if paid is not None else 0
