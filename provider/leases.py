"""Leases as the worker sees them: read from the chain, kept for a few seconds, judged by the chain's time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protocol.headers import RefusalCode
from provider.exceptions import Refusal


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

    def check_open(self, now: int) -> None:
        """Raises Refusal if the lease takes no new requests at this time."""
        if self.is_released or self.is_revoked or self.is_closing:
            raise Refusal(RefusalCode.LEASE_ENDED, "the lease is closing, revoked or released")
        if now >= min(self.expiry, self.closes_at):
            raise Refusal(RefusalCode.LEASE_ENDED, f"the lease expired at {min(self.expiry, self.closes_at)}")


class LeaseCache:
    """Reads leases through `fetch` and keeps each for `ttl_s` seconds; unknown ones are not kept."""

    def __init__(self, fetch: Callable[[bytes], Awaitable[Lease | None]], ttl_s: float) -> None:
        self._fetch = fetch
        self._ttl_s = ttl_s
        self._kept: dict[bytes, tuple[float, Lease]] = {}
        self._locks: dict[bytes, asyncio.Lock] = {}

    async def get(self, lease_id: bytes) -> Lease | None:
        """The lease, None if the chain does not know it (with enough confirmations)."""
        if lease := self._fresh(lease_id):
            return lease
        async with self._locks.setdefault(lease_id, asyncio.Lock()):
            if lease := self._fresh(lease_id):
                return lease
            lease = await self._fetch(lease_id)
            self._locks.pop(lease_id, None)
            if lease is not None:
                self._kept[lease_id] = (time.monotonic() + self._ttl_s, lease)
            return lease

    def forget(self, lease_id: bytes) -> None:
        """Reads it anew next time."""
        self._kept.pop(lease_id, None)

    def _fresh(self, lease_id: bytes) -> Lease | None:
        kept = self._kept.get(lease_id)
        if kept and kept[0] > time.monotonic():
            return kept[1]
        self._kept.pop(lease_id, None)
        return None
