"""Leases as the worker sees them: read from the chain, kept for a few seconds, judged by the chain's time."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protocol.chain.exceptions import ChainError
from protocol.headers import RefusalCode
from provider.exceptions import Refusal
from provider.limits import TokenBucket

FETCH_TIMEOUT_S = 5.0
MAX_KNOWN = 20_000
MAX_UNKNOWN = 10_000
# after a failed read, known leases are not read again for so long
OUTAGE_PAUSE_S = 10.0


@dataclass(frozen=True)
class Lease:
    """A lease on chain. Amounts in token base units, times in Unix seconds; `closes_at` is the effective one."""

    lease_id: bytes
    owner: str
    provider: int
    offer_id: int
    version: int
    token: str
    signer: str
    deposit: int
    settled: int
    expiry: int
    closes_at: int
    fee_bps: int
    is_closing: bool
    is_revoked: bool
    is_released: bool

    def check_open(self, now: int, margin_s: int = 0) -> None:
        """Raises Refusal if the lease takes no new requests at this time, or closes within `margin_s` seconds."""
        if self.is_released or self.is_revoked or self.is_closing:
            raise Refusal(RefusalCode.LEASE_ENDED, "the lease is closing, revoked or released")
        ends_at = min(self.expiry, self.closes_at - margin_s)
        if now >= ends_at:
            raise Refusal(RefusalCode.LEASE_ENDED, f"the lease took requests until {ends_at}")


class LeaseCache:
    """Reads leases through `fetch` and keeps each for `ttl_s` seconds, that there is none for `unknown_ttl_s`.

    Those not asked for since `MAX_KNOWN` others were are forgotten.

    Ids never seen before are read only as often as `strangers` allows, because anyone can invent them.

    While the chain cannot be read, what was read less than `stale_s` seconds ago still counts: the credit cap bounds
    what that can cost.
    """

    def __init__(
        self,
        fetch: Callable[[bytes], Awaitable[Lease | None]],
        ttl_s: float,
        stale_s: float = 600.0,
        *,
        unknown_ttl_s: float = 0.0,
        strangers: TokenBucket | None = None,
    ) -> None:
        self._fetch = fetch
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._unknown_ttl_s = unknown_ttl_s
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._strangers = strangers
        self._outage_until = 0.0
        self._kept: OrderedDict[bytes, tuple[float, Lease]] = OrderedDict()
        self._locks: dict[bytes, asyncio.Lock] = {}

    async def get(self, lease_id: bytes) -> Lease | None:
        """The lease, None if the chain does not know it (with enough confirmations).

        Raises Refusal if the chain cannot be read and the lease was not read recently, or too many strangers ask.
        """
        if self._is_unknown(lease_id):
            return None
        if lease_id in self._kept:
            self._kept.move_to_end(lease_id)
        if lease := self._younger_than(lease_id, self._ttl_s):
            return lease
        async with self._locks.setdefault(lease_id, asyncio.Lock()):
            if lease := self._younger_than(lease_id, self._ttl_s):
                return lease
            try:
                return await self._read(lease_id)
            finally:
                self._locks.pop(lease_id, None)

    def known(self, lease_id: bytes) -> Lease | None:
        """The lease as it was last read, however long ago; what never changes in it, such as its signer, holds."""
        kept = self._kept.get(lease_id)
        return kept[1] if kept else None

    def forget(self, lease_id: bytes) -> None:
        """Reads it anew next time."""
        if kept := self._kept.get(lease_id):
            self._kept[lease_id] = (kept[0] - self._ttl_s, kept[1])

    async def _read(self, lease_id: bytes) -> Lease | None:
        stale = self._younger_than(lease_id, self._stale_s)
        if stale is not None and time.monotonic() < self._outage_until:
            return stale
        if lease_id not in self._kept and self._strangers is not None and not self._strangers.take():
            raise Refusal(
                RefusalCode.BUSY, "too many unknown leases are asked for at the moment; try again", status=429
            )
        try:
            lease = await asyncio.wait_for(self._fetch(lease_id), FETCH_TIMEOUT_S)
        except (ChainError, TimeoutError) as error:
            self._outage_until = time.monotonic() + OUTAGE_PAUSE_S
            if stale is None:
                raise Refusal(RefusalCode.BUSY, "the chain can not be read at the moment; try again") from error
            return stale
        if lease is not None:
            self._kept[lease_id] = (time.monotonic(), lease)
            while len(self._kept) > MAX_KNOWN:
                self._kept.popitem(last=False)
        elif self._unknown_ttl_s:
            self._unknown[lease_id] = time.monotonic() + self._unknown_ttl_s
            while len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
        return lease

    def _is_unknown(self, lease_id: bytes) -> bool:
        until = self._unknown.get(lease_id)
        if until is None or time.monotonic() < until:
            return until is not None
        del self._unknown[lease_id]
        return False

    def _younger_than(self, lease_id: bytes, age_s: float) -> Lease | None:
        read_at, lease = self._kept.get(lease_id, (0.0, None))
        return lease if lease is not None and time.monotonic() - read_at < age_s else None
