"""The market's clock, which both sides of a request go by."""

from __future__ import annotations

import time
from collections.abc import Callable

from protocol.chain.deployments import Profile

MAX_AHEAD_S = 120
"""How far a head of a real network may be ahead of this machine's clock and still be believed."""


class MarketClock:
    """The later of this machine's clock and the newest head's timestamp, in Unix seconds.

    Deadlines are judged by block time. A head lags by up to a block interval, so the own clock rules while both agree;
    on a development chain whose time was moved forward the head rules. A head more than `max_ahead_s` seconds ahead is
    not believed (None: any is), and every head replaces the one before, so that a node's lie ends with the next answer.
    """

    def __init__(self, max_ahead_s: int | None = None, own: Callable[[], float] = time.time) -> None:
        """`own` is this machine's clock."""
        self._max_ahead_s = max_ahead_s
        self._own = own
        self._head_timestamp: int | None = None
        self._seen_at = 0.0

    @classmethod
    def of(cls, profile: Profile) -> MarketClock:
        """The clock for a network: only development chains may move time at will."""
        return cls(None if profile.is_development else MAX_AHEAD_S)

    def update(self, head_timestamp: int) -> bool:
        """Note the timestamp of the newest head; returns whether it is believed."""
        if self._max_ahead_s is not None and head_timestamp > self._own() + self._max_ahead_s:
            self._head_timestamp = None
            return False
        self._head_timestamp = head_timestamp
        self._seen_at = self._own()
        return True

    def now(self) -> int:
        """The market's time."""
        own = self._own()
        if self._head_timestamp is None:
            return int(own)
        return max(int(own), self._head_timestamp + int(own - self._seen_at))

    def block_time(self) -> int:
        """The newest head's timestamp, by which the contracts judge deadlines; the own clock if none is believed."""
        return int(self._own()) if self._head_timestamp is None else self._head_timestamp
