"""Settling and anchoring on a real chain: what fails is tried again, and nothing else waits for it."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_asyncio

from protocol.chain.exceptions import InsufficientFunds
from protocol.chain.sender import Outcome
from protocol.hashing import ZERO_BYTES32
from protocol.signing import Signer
from protocol.typed_data import NodeKey
from provider import settling
from provider.anchoring import Anchoring
from provider.exceptions import AnchorError
from provider.releasing import Releasing
from provider.settling import Settled, Settling, SettlingPolicy, gas_limit
from tests.support.chain_provider import ChainProvider, chain_provider, owner_of
from tests.support.live_market import LiveMarket, live_market, signer_of

EAGER = SettlingPolicy(gas_multiple=0, ether_price=0)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest_asyncio.fixture
async def provider(market: LiveMarket, tmp_path: Path) -> AsyncIterator[ChainProvider]:
    async with chain_provider(market, tmp_path) as found:
        yield found
        market.node.automine(True)


def settling_of(provider: ChainProvider) -> Settling:
    return Settling(provider.service, provider.chain, provider.sender, EAGER)


def anchoring_of(provider: ChainProvider, node: Signer | None = None) -> Anchoring:
    return Anchoring(provider.service, provider.client, provider.sender, node or provider.node)


async def tick(provider: ChainProvider, job: Settling | Anchoring | Releasing) -> Any:
    """One tick, and a block with what it sent."""
    found = await job.tick()
    provider.market.node.mine()
    return found


def settled(provider: ChainProvider, lease_id: bytes) -> int:
    return provider.client.lease(lease_id).settled


def outcomes(provider: ChainProvider, prefix: str) -> list[Outcome]:
    """Everything ever sent under keys that begin so."""
    keys = [row[0] for row in provider.sender._store._db.execute("SELECT key FROM intents ORDER BY id")]
    return [provider.sender.outcome(key) for key in keys if key.startswith(prefix)]


async def test_settlement_that_failed_for_good_is_sent_anew(provider: ChainProvider) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    job = settling_of(provider)
    with patch.object(settling, "gas_limit", lambda *_: 30_000):
        assert await tick(provider, job) == []
    provider.sender.step()
    assert [outcome.has_failed for outcome in outcomes(provider, "settle:")] == [True]
    await tick(provider, job)
    assert settled(provider, lease_id) == 5_000
    assert await tick(provider, job) == [Settled(lease_id, 5_000)]
    assert await tick(provider, job) == []
    assert len(outcomes(provider, "settle:")) == 2


async def test_settlement_is_sent_once_and_not_waited_for(market: LiveMarket, provider: ChainProvider) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    market.node.automine(False)
    job = settling_of(provider)
    for _ in range(3):
        assert await job.tick() == []
    assert len(provider.sender.pending()) == 1
    provider.take_voucher(lease_id, 7_000)
    await job.tick()
    assert len(provider.sender.pending()) == 2
    market.node.mine()
    assert await job.tick() == [Settled(lease_id, 7_000)]


async def test_what_is_on_its_way_is_not_sent_again_with_the_next_lease(
    market: LiveMarket, provider: ChainProvider
) -> None:
    first, second = provider.open_lease(), provider.open_lease()
    market.node.automine(False)
    job = settling_of(provider)
    sizes = []
    for lease_id in (first, second):
        provider.take_voucher(lease_id, 5_000)
        await job.tick()
        sizes.append(len(provider.sender._find(provider.sender.pending()[-1].key).transaction.data))
    assert len(provider.sender.pending()) == 2
    assert sizes[0] == sizes[1]
    market.node.mine()
    assert sorted(found.lease_id for found in await job.tick()) == sorted((first, second))


async def test_estimate_fooled_by_a_copy_in_the_pool_still_has_gas(market: LiveMarket, provider: ChainProvider) -> None:
    """The copy settles first in the estimate's state, and is then dropped: ours must do the whole work."""
    lease_id = provider.open_lease()
    signed = provider.take_voucher(lease_id, 5_000)
    market.node.automine(False)
    r, vs = signed.signature.compact()
    row = (lease_id, 5_000, signed.message.context, r, vs)
    data = provider.client.encode("LeaseEscrow", "settle", provider.provider, market.token, [row])
    escrow = provider.client.deployment.address("LeaseEscrow")
    market.node.rpc(
        "eth_sendTransaction",
        [{"from": signer_of(1).address, "to": escrow, "data": "0x" + data.hex(), "gas": "0x7a120"}],
    )
    await settling_of(provider).tick()
    market.node.rpc("anvil_removePoolTransactions", [signer_of(1).address])
    market.node.time_travel_to((market.node.timestamp() // 86_400 + 1) * 86_400 + 5)
    market.node.mine()
    assert settled(provider, lease_id) == 5_000


def test_gas_limit_covers_the_first_credit_of_a_day() -> None:
    """40,795 is the estimate when a copy settled before, 51,200 a usual one; 78,497 is needed after midnight."""
    assert gas_limit(40_795, 1) >= 78_497
    assert gas_limit(51_200, 1) >= 78_497
    assert gas_limit(2_400_000, 128) >= 128 * 28_400
    assert gas_limit(10_000_000, 1) >= 12_000_000


async def test_batch_that_fails_starves_no_other(provider: ChainProvider) -> None:
    leases = [provider.open_lease() for _ in range(3)]
    for lease_id in leases:
        provider.take_voucher(lease_id, 1_000)
    job = settling_of(provider)
    send, calls = job._submit, []

    def fail_first(token: str, batch: list[object]) -> str:
        calls.append(batch)
        if len(calls) == 1:
            raise InsufficientFunds("0x0", 2, 1)
        return send(token, batch)  # type: ignore[arg-type]

    with patch.object(settling, "MAX_BATCH", 1), patch.object(job, "_submit", fail_first):
        await tick(provider, job)
        assert sorted(settled(provider, lease_id) for lease_id in leases) == [0, 1_000, 1_000]
        await tick(provider, job)
    assert [settled(provider, lease_id) for lease_id in leases] == [1_000] * 3


async def test_lying_head_stops_settling_only_while_it_lies(provider: ChainProvider) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    job = settling_of(provider)
    head = provider.client.head()

    def lie() -> object:
        return type(head)(head.number, head.hash, head.parent_hash, head.timestamp + 10**8, head.base_fee)

    with patch.object(provider.client, "head", lie):
        await tick(provider, job)
    assert settled(provider, lease_id) == 0
    await tick(provider, job)
    assert settled(provider, lease_id) == 5_000


async def test_closed_leases_are_released_a_few_at_a_time(market: LiveMarket, provider: ChainProvider) -> None:
    leases = [provider.open_lease(duration_s=3_600) for _ in range(3)]
    for lease_id in leases:
        provider.take_voucher(lease_id, 1_000)
    long = provider.open_lease(duration_s=10 * 86_400)
    provider.take_voucher(long, 1_000)
    job = Releasing(provider.service, provider.chain, provider.sender, per_tick=2)
    await provider.chain.refresh()
    assert await tick(provider, job) == []
    market.node.time_travel(2 * 3_600)
    market.node.mine()
    await provider.chain.refresh()
    first = await tick(provider, job)
    second = await tick(provider, job)
    assert [len(first), len(set(second) - set(first))] == [2, 1]
    assert all(provider.client.lease(lease_id).is_released for lease_id in leases)
    assert not provider.client.lease(long).is_released
    assert await tick(provider, job) == []
    off = Releasing(provider.service, provider.chain, provider.sender, per_tick=0)
    assert await tick(provider, off) == []


async def test_anchor_is_confirmed_by_a_later_tick(market: LiveMarket, provider: ChainProvider) -> None:
    provider.serve(provider.open_lease())
    job = anchoring_of(provider)
    market.node.automine(False)
    for _ in range(3):
        assert await job.tick() is None
    assert len(provider.sender.pending()) == 1
    assert provider.ledger.last_anchor(confirmed=True) is None
    market.node.mine()
    found = await job.tick()
    assert found is not None
    assert (found.count, found.root) == (1, provider.ledger.root())
    assert await job.tick() is None


async def test_anchor_in_flight_while_the_node_key_rotates_is_signed_again(
    market: LiveMarket, provider: ChainProvider
) -> None:
    lease_id = provider.open_lease()
    provider.serve(lease_id)
    new = Signer(b"\x7a" * 32)
    market.node.automine(False)
    await anchoring_of(provider).tick()
    rotate(provider, new)
    provider.sender.step()
    assert provider.client.get(provider.client.reads.latest_anchor(provider.provider)) == ZERO_BYTES32
    with pytest.raises(AnchorError, match="start it with the keystore of the new key"):
        await tick(provider, anchoring_of(provider))
    provider.serve(lease_id)
    job = anchoring_of(provider, new)
    assert await tick(provider, job) is None
    first = await tick(provider, job)
    assert first is not None
    assert first.count == 1
    await tick(provider, job)
    second = await tick(provider, job)
    assert second is not None
    assert second.count == 2


def rotate(provider: ChainProvider, new: Signer) -> None:
    """In a block before the anchor's transaction: the owner bids more."""
    owner = owner_of(provider.number)
    r, vs = new.sign(provider.market.domain, NodeKey(owner.address)).compact()
    data = provider.client.encode("Registry", "rotate_node_key", provider.provider, new.address, r, vs)
    provider.market.node.rpc("anvil_impersonateAccount", [owner.address])
    provider.market.node.rpc(
        "eth_sendTransaction",
        [
            {
                "from": owner.address,
                "to": provider.client.deployment.address("Registry"),
                "data": "0x" + data.hex(),
                "maxPriorityFeePerGas": hex(100 * 10**9),
                "maxFeePerGas": hex(200 * 10**9),
                "gas": "0x7a120",
            }
        ],
    )
    provider.market.node.mine()
    provider.market.node.automine(True)


async def test_restored_ledger_signs_no_contradicting_anchor(provider: ChainProvider, tmp_path: Path) -> None:
    lease_id = provider.open_lease()
    provider.serve(lease_id)
    job = anchoring_of(provider)
    await tick(provider, job)
    assert await tick(provider, job)
    provider.ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "backup.sqlite")
    provider.serve(lease_id)
    await tick(provider, job)
    assert await tick(provider, job)
    latest = provider.client.get(provider.client.reads.latest_anchor(provider.provider))
    provider.reopen_ledger(tmp_path / "backup.sqlite")
    provider.serve(lease_id, mark=9)
    with pytest.raises(AnchorError, match="bring back the newest ledger file"):
        await tick(provider, anchoring_of(provider))
    last = provider.ledger.last_anchor()
    assert last is not None
    assert last.signed.message.count == 1
    assert provider.client.get(provider.client.reads.latest_anchor(provider.provider)) == latest


async def test_empty_ledger_signs_nothing_over_an_anchor(provider: ChainProvider, tmp_path: Path) -> None:
    lease_id = provider.open_lease()
    provider.serve(lease_id)
    await tick(provider, anchoring_of(provider))
    provider.reopen_ledger(tmp_path / "fresh.sqlite")
    provider.serve(lease_id)
    with pytest.raises(AnchorError):
        await tick(provider, anchoring_of(provider))
    assert provider.ledger.last_anchor() is None
