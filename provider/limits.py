"""How often something may happen."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from protocol.headers import RefusalCode
from provider.exceptions import Refusal

MAX_RATES = 20_000
"""How many leases and owners are remembered."""


class TokenBucket:
    """At most `burst` at once, and `per_s` a second in the long run."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock()

    def has(self) -> bool:
        """Whether it might happen once more now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        return self._tokens >= 1

    def take(self) -> bool:
        """Whether it may happen once more now; if so, it counts."""
        if not self.has():
            return False
        self._tokens -= 1
        return True

    def wait_s(self) -> float:
        """Seconds until it may happen again."""
        if self.has():
            return 0.0
        return (1 - self._tokens) / self._per_s if self._per_s else math.inf


class TokenBuckets:
    """One bucket for each key; the ones that were quiet for longest are forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def get(self, key: Hashable, per_s: float, burst: int) -> TokenBucket:
        """The key's bucket, a full one for a new key."""
        bucket = self._buckets.pop(key, None) or TokenBucket(per_s, burst, self._clock)
        self._buckets[key] = bucket
        if len(self._buckets) > MAX_RATES:
            self._buckets.popitem(last=False)
        return bucket


class RequestRates:
    """The terms' requests per minute, for each lease and for each owner over all its leases on one offer.

    An owner shares one rate however many leases it opens: opening more of them buys no more of the machine.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._buckets = TokenBuckets(clock)

    def take(self, lease_id: bytes, owner: str, offer_id: int, per_minute: int) -> None:
        """Counts a request. Raises Refusal with the seconds until the next may come."""
        buckets = [self._buckets.get(key, per_minute / 60, per_minute) for key in (lease_id, (owner, offer_id))]
        wait_s = max(bucket.wait_s() for bucket in buckets)
        if wait_s > 0:
            raise Refusal(
                RefusalCode.BUSY,
                f"the terms allow {per_minute} requests a minute, over all leases of one owner on this offer",
                status=429,
                retry_after_s=math.ceil(wait_s),
            )
        for bucket in buckets:
            bucket.take()
