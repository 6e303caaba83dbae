"""Asking a second route when the first is silent, within what that may cost a day.

A route that loses is cancelled and paid for what it had delivered; a winner is paid as any. What a day's winners cost
is the bound: beyond it nothing is hedged until the next day (UTC).
"""

from collections.abc import Callable

from consumer.gateway.events import Leg
from consumer.gateway.settings import HedgeSettings

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

    def may_hedge(self) -> bool:
        """Whether today's limit is not reached yet."""
        today = self._now() // DAY_S
        if today != self._day:
            self._day, self._spent = today, 0
        return self._spent < self._most.units

    def spent(self, leg: Leg) -> None:
        """Counts what a hedge cost."""
        if leg.symbol == self._most.token.symbol:
            self._spent += leg.cost
