"""The market's clock, which both sides of a request go by."""

from __future__ import annotations

import time


class MarketClock:
    """The later of this machine's clock and the newest head's timestamp, in Unix seconds.

    Deadlines are judged by block time. A head lags by up to a block interval, so the own clock rules while both agree;
    on a development chain whose time was moved forward the head rules.
    """

    def __init__(self) -> None:
        self._head_timestamp = 0
        self._seen_at = 0.0

    def update(self, head_timestamp: int) -> None:
        """Note the timestamp of a head."""
        if head_timestamp > self._head_timestamp:
            self._head_timestamp = head_timestamp
            self._seen_at = time.monotonic()

    def now(self) -> int:
        """The market's time."""
        since_head = int(time.monotonic() - self._seen_at)
        return max(int(time.time()), self._head_timestamp + since_head if self._head_timestamp else 0)
