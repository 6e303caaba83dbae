"""Leases are read again soon, and served from memory for a while when the chain cannot be read."""

import asyncio
from dataclasses import replace

import pytest

from protocol.chain.exceptions import ChainError, RpcUnavailable
from protocol.headers import RefusalCode
from provider import leases
from provider.exceptions import Refusal
from provider.leases import Lease, LeaseCache
from tests.support.provider_stack import make_lease, make_offer

LEASE = make_lease(make_offer().terms)


class Chain:
    """Answers with a lease, with nothing, with an error, or not at all."""

    def __init__(self) -> None:
        self.answer: Lease | ChainError | None = LEASE
        self.hangs = False
        self.reads = 0

    async def fetch(self, _: bytes) -> Lease | None:
        self.reads += 1
        if self.hangs:
            await asyncio.Event().wait()
        if isinstance(self.answer, ChainError):
            raise self.answer
        return self.answer


async def test_read_once_within_the_time_to_live() -> None:
    chain = Chain()
    cache = LeaseCache(chain.fetch, 60)
    found = await asyncio.gather(*[cache.get(LEASE.lease_id) for _ in range(5)])
    assert found == [LEASE] * 5
    assert chain.reads == 1
    chain.answer = replace(LEASE, is_revoked=True)
    cache.forget(LEASE.lease_id)
    assert await cache.get(LEASE.lease_id) == chain.answer
    assert chain.reads == 2


async def test_unknown_leases_are_asked_for_again() -> None:
    chain = Chain()
    chain.answer = None
    cache = LeaseCache(chain.fetch, 60)
    assert await cache.get(LEASE.lease_id) is None
    chain.answer = LEASE
    assert await cache.get(LEASE.lease_id) == LEASE


@pytest.mark.parametrize("hangs", [True, False])
async def test_outage(monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    monkeypatch.setattr(leases, "FETCH_TIMEOUT_S", 0.05)
    chain = Chain()
    cache = LeaseCache(chain.fetch, 0)
    await cache.get(LEASE.lease_id)
    chain.hangs, chain.answer = hangs, RpcUnavailable("down")
    reads = chain.reads
    assert [await cache.get(LEASE.lease_id) for _ in range(3)] == [LEASE] * 3
    assert chain.reads == reads + 1
    with pytest.raises(Refusal) as refusal:
        await cache.get(b"\x00" * 32)
    assert refusal.value.code is RefusalCode.BUSY


async def test_old_knowledge_is_not_served() -> None:
    chain = Chain()
    cache = LeaseCache(chain.fetch, 0, stale_s=0)
    await cache.get(LEASE.lease_id)
    chain.answer = RpcUnavailable("down")
    with pytest.raises(Refusal):
        await cache.get(LEASE.lease_id)


@pytest.mark.parametrize(
    ("changes", "is_open"),
    [
        ({}, True),
        ({"is_closing": True}, False),
        ({"is_revoked": True}, False),
        ({"is_released": True}, False),
        ({"expiry": 99}, True),
        ({"expiry": 98}, False),
        ({"closes_at": 98}, False),
    ],
)
def test_requests_end_with_the_lease(changes: dict[str, int], is_open: bool) -> None:
    lease = replace(LEASE, **{"expiry": 1_000, "closes_at": 2_000, **changes})  # type: ignore[arg-type]
    if is_open:
        lease.check_open(98)
    else:
        with pytest.raises(Refusal) as refusal:
            lease.check_open(98)
        assert refusal.value.code is RefusalCode.LEASE_ENDED


async def test_leases_nobody_asks_for_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_KNOWN", 2)
    chain = Chain()
    cache = LeaseCache(chain.fetch, 60)
    ids = [bytes([number]) * 32 for number in range(3)]
    for lease_id in (ids[0], ids[1], ids[0], ids[2]):
        await cache.get(lease_id)
    assert [cache.known(lease_id) is not None for lease_id in ids] == [True, False, True]
    assert chain.reads == 3
    assert await cache.get(ids[1]) == LEASE
    assert chain.reads == 4
