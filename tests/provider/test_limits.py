"""What strangers cost: how often something may happen, and how often the chain is asked about invented leases."""

import itertools
from types import SimpleNamespace

import pytest

from provider.exceptions import Refusal
from provider.leases import Lease, LeaseCache
from provider.limits import TokenBucket
from tests.support.provider_stack import make_lease, make_offer

LEASE = make_lease(make_offer().terms)


def test_bucket_gives_a_burst_and_then_its_rate() -> None:
    now = [100.0]
    bucket = TokenBucket(2, 3, lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now[0] += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] += 1_000
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


class Chain:
    def __init__(self) -> None:
        self.reads = 0

    async def fetch(self, lease_id: bytes) -> Lease | None:
        self.reads += 1
        return LEASE if lease_id == LEASE.lease_id else None


async def test_invented_leases_are_asked_for_once_and_at_a_bounded_rate() -> None:
    chain = Chain()
    cache = LeaseCache(chain.fetch, 0, unknown_ttl_s=60, strangers=TokenBucket(0, 3))
    assert await cache.get(LEASE.lease_id) == LEASE
    for _ in range(5):
        assert await cache.get(b"\x01" * 32) is None
    assert chain.reads == 2
    assert await cache.get(b"\x02" * 32) is None
    with pytest.raises(Refusal) as refusal:
        await cache.get(b"\x03" * 32)
    assert refusal.value.status == 429
    assert await cache.get(LEASE.lease_id) == LEASE
    assert chain.reads == 4


async def test_lease_opened_a_moment_ago_is_found_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(1_000, 3)
    monkeypatch.setattr("provider.leases.time", SimpleNamespace(monotonic=lambda: next(times)))
    known: list[Lease] = []

    async def fetch(_: bytes) -> Lease | None:
        return known[0] if known else None

    cache = LeaseCache(fetch, 0, unknown_ttl_s=2)
    assert await cache.get(LEASE.lease_id) is None
    known.append(LEASE)
    assert await cache.get(LEASE.lease_id) == LEASE


async def test_memory_of_invented_leases_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.leases.MAX_UNKNOWN", 4)
    chain = Chain()
    cache = LeaseCache(chain.fetch, 0, unknown_ttl_s=600)
    for number in range(10):
        await cache.get(bytes([number]) * 32)
    assert len(cache._unknown) == 4
