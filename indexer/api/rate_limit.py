"""Token buckets, one for each client, in bounded memory."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CLIENTS = 10_000
_BURST_S = 4.0


class RateLimit:
    """`rate` requests a second, four seconds' worth at once. The client unseen for longest is forgotten first."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._most = max(rate * _BURST_S, 1.0)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Counts a request: 0 if it may pass, else the seconds after which one may."""
        now = self._clock()
        left, at = self._buckets.pop(client, (self._most, now))
        left = min(self._most, left + (now - at) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._buckets[client] = (left - 1 if not wait else left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._buckets)


def client_of(peer: str, forwarded: str, hops: int) -> str:
    """Whom to count: the peer, or whom the first of `hops` trusted proxies saw; IPv6 by its first 64 bits."""
    seen = peer
    if hops and forwarded:
        seen = [part.strip() for part in forwarded.split(",")][-hops:][0]
    try:
        address = ipaddress.ip_address(seen)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
