"""Settling, releasing and anchoring over a node that lies or is behind: no answer makes the worker forget money."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from protocol.chain.intents import State
from protocol.chain.sender import SenderPolicy
from protocol.headers import Signed
from protocol.signing import Signer
from protocol.typed_data import Anchor, Voucher
from provider.anchoring import Anchoring, anchor_word
from provider.releasing import LOOK_S, Releasing
from provider.settling import RESEND_S, Settled, Settling, SettlingPolicy
from tests.support.chain_provider import ChainProvider, chain_provider
from tests.support.live_market import LiveMarket, live_market, signer_of
from tests.support.lying_rpc import LyingRpc, lying_rpc

EAGER = SettlingPolicy(gas_multiple=0, ether_price=0)
RELUCTANT = SettlingPolicy(gas_multiple=10**9, ether_price=10**18)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture
def rpc(market: LiveMarket) -> Iterator[LyingRpc]:
    with lying_rpc(market.node, market.client) as found:
        yield found


@pytest_asyncio.fixture
async def provider(market: LiveMarket, rpc: LyingRpc, tmp_path: Path) -> AsyncIterator[ChainProvider]:
    async with chain_provider(replace(market, client=rpc.client), tmp_path) as found:
        yield found
        market.node.automine(True)


def settling_of(provider: ChainProvider, policy: SettlingPolicy = EAGER) -> Settling:
    return Settling(provider.service, provider.chain, provider.sender, policy)


def releasing_of(provider: ChainProvider, per_tick: int = 4) -> Releasing:
    return Releasing(provider.service, provider.chain, provider.sender, per_tick)


def settled(market: LiveMarket, lease_id: bytes) -> int:
    """What the chain really has."""
    return market.client.lease(lease_id).settled


async def tick(provider: ChainProvider, job: Settling | Releasing | Anchoring) -> Any:
    """One tick, and a block with what it sent: anvil answers before it has mined."""
    found = await job.tick()
    provider.market.node.mine()
    return found


async def later(provider: ChainProvider) -> None:
    """The time of the next look at every lease."""
    provider.market.node.time_travel(LOOK_S + 1)
    provider.market.node.mine()
    await provider.chain.refresh()


# --- settlements


async def test_overstated_settlement_is_taken_back_by_the_next_answer(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider
) -> None:
    lease_id = provider.open_lease()
    owner = signer_of(2).address
    provider.take_voucher(lease_id, 5_000)
    job = settling_of(provider)
    with rpc.telling(rpc.lease_says(lease_id, settled=900_000)):
        assert await tick(provider, job) == [Settled(lease_id, 5_000)]
    assert (provider.ledger.unsettled(), provider.ledger.settled_with(owner)) == ([], 5_000)
    assert settled(market, lease_id) == 0
    assert await tick(provider, job) == []
    assert provider.ledger.settled_with(owner) == 0
    assert settled(market, lease_id) == 5_000
    assert await tick(provider, job) == [Settled(lease_id, 5_000)]
    assert provider.ledger.last_settlement(lease_id)[0] == 5_000
    provider.ledger.check()


async def test_lie_that_was_told_twice_is_found_before_the_lease_ends(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider
) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    settling, releasing = settling_of(provider), releasing_of(provider)
    with rpc.telling(rpc.lease_says(lease_id, settled=5_000)):
        for _ in range(3):
            await tick(provider, settling)
            await tick(provider, releasing)
    await tick(provider, settling)
    assert settled(market, lease_id) == 0
    await later(provider)
    await tick(provider, releasing)
    assert provider.ledger.unsettled() == [lease_id]
    await tick(provider, settling)
    assert settled(market, lease_id) == 5_000


async def test_worker_that_was_lied_to_finds_out_after_its_next_start(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider
) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    with rpc.telling(rpc.lease_says(lease_id, settled=5_000)):
        await tick(provider, settling_of(provider))
    await tick(provider, releasing_of(provider, per_tick=0))
    await tick(provider, settling_of(provider))
    assert settled(market, lease_id) == 5_000


async def test_understated_settlement_pays_nothing_twice(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider
) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    job = settling_of(provider)
    await tick(provider, job)
    assert await tick(provider, job) == [Settled(lease_id, 5_000)]
    with rpc.telling(rpc.lease_says(lease_id, settled=1_000)):
        await tick(provider, job)
    assert provider.ledger.account(lease_id).settled == 1_000
    assert await tick(provider, job) == [Settled(lease_id, 5_000)]
    assert settled(market, lease_id) == 5_000


async def test_receipt_of_a_settlement_that_never_was_is_not_waited_for(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider
) -> None:
    """The node drops the transaction and says that it is mined, successful and final."""
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    job = settling_of(provider)
    market.node.automine(False)
    with rpc.telling(rpc.swallowing(provider.sender.address)):
        await tick(provider, job)
        (sent,) = provider.sender.pending()
        market.node.automine(True)
        provider.sender.step()
    assert provider.sender.outcome(sent.key).state is State.FINAL
    await tick(provider, job)
    assert provider.sender.latest(sent.key) == provider.sender.outcome(sent.key), "it may be seen a little later"
    provider.sender.policy = SenderPolicy(poll_s=0.02, stuck_s=0)
    market.node.time_travel(RESEND_S + 1)
    market.node.mine()
    await tick(provider, job)
    provider.sender.step()
    market.node.mine()
    assert settled(market, lease_id) == 5_000


async def test_node_that_is_behind_makes_no_settlement_late(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head is hours old while the lease nears its end by the machine's clock."""
    lease_id = provider.open_lease(duration_s=10_800)
    provider.take_voucher(lease_id, 5_000)
    job = settling_of(provider, RELUCTANT)
    old = market.node.rpc("eth_getBlockByNumber", ["latest", False])
    await tick(provider, job)
    assert settled(market, lease_id) == 0
    market.node.time_travel(10_000)
    market.node.mine()
    monkeypatch.setattr(provider.chain.clock, "_own", lambda: float(market.node.timestamp()))

    def behind(call: dict[str, Any], result: Any) -> Any:
        is_head = call["method"] == "eth_getBlockByNumber" and call["params"][0] == "latest"
        return {**result, "timestamp": old["timestamp"]} if is_head else result

    with rpc.telling(behind):
        await tick(provider, job)
        assert provider.chain.clock.block_time() == int(old["timestamp"], 16)
    assert settled(market, lease_id) == 5_000


async def test_voucher_by_a_key_that_the_node_made_up_hides_no_real_one(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider
) -> None:
    lease_id = provider.open_lease()
    real = provider.take_voucher(lease_id, 5_000)
    stranger = Signer(b"\x99" * 32)
    voucher = Voucher(lease_id, 1_000_000)
    forged = Signed(voucher, stranger.sign(market.domain, voucher))
    with rpc.telling(rpc.lease_says(lease_id, signer=int(stranger.address, 16))):
        await provider.service.accept_voucher(forged)
        await tick(provider, settling_of(provider))
    assert provider.ledger.highest_voucher(lease_id) == forged
    await tick(provider, settling_of(provider))
    assert settled(market, lease_id) == real.message.cumulative == 5_000


# --- releases


async def test_claimed_release_forgets_no_voucher(market: LiveMarket, rpc: LyingRpc, provider: ChainProvider) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    settling, releasing = settling_of(provider), releasing_of(provider)
    with rpc.telling(rpc.lease_says(lease_id, is_released=1)):
        await tick(provider, settling)
        await tick(provider, releasing)
    assert settled(market, lease_id) == 0
    assert provider.ledger.unreleased() == provider.ledger.unsettled() == [lease_id]
    await later(provider)
    await tick(provider, releasing)
    await tick(provider, settling)
    assert settled(market, lease_id) == 5_000
    with rpc.telling(rpc.lease_says(lease_id, is_released=1)):
        await later(provider)
        await tick(provider, releasing)
    assert not provider.ledger.account(lease_id).is_released, "an honest answer came between the two lies"


async def test_voucher_taken_after_a_claimed_release_is_settled(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider
) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    releasing = releasing_of(provider)
    with rpc.telling(rpc.lease_says(lease_id, is_released=1)):
        await tick(provider, releasing)
        await later(provider)
        await tick(provider, releasing)
    assert provider.ledger.account(lease_id).is_released
    assert provider.ledger.unsettled() == []
    provider.take_voucher(lease_id, 6_000)
    await tick(provider, settling_of(provider))
    assert settled(market, lease_id) == 6_000


async def test_real_release_is_noted_by_the_second_look(market: LiveMarket, provider: ChainProvider) -> None:
    lease_id = provider.open_lease(duration_s=3_600)
    provider.take_voucher(lease_id, 1_000)
    releasing = releasing_of(provider)
    market.node.time_travel(2 * 3_600)
    market.node.mine()
    await provider.chain.refresh()
    assert await tick(provider, releasing) == [lease_id]
    assert market.client.lease(lease_id).is_released
    await tick(provider, releasing)
    assert provider.ledger.unreleased() == [lease_id]
    await later(provider)
    await tick(provider, releasing)
    assert provider.ledger.unreleased() == provider.ledger.unsettled() == []
    assert (releasing._look_at, releasing._said_released) == ({lease_id: releasing._look_at[lease_id]}, {lease_id})
    await tick(provider, releasing)
    assert (releasing._look_at, releasing._said_released) == ({}, set())


async def test_clock_that_was_ahead_holds_no_look_up(rpc: LyingRpc, provider: ChainProvider) -> None:
    lease_id = provider.open_lease()
    provider.take_voucher(lease_id, 5_000)
    releasing = releasing_of(provider)

    def ahead(call: dict[str, Any], result: Any) -> Any:
        return {**result, "timestamp": hex(2**33)} if call["method"] == "eth_getBlockByNumber" else result

    with rpc.telling(ahead):
        await provider.chain.refresh()
        await tick(provider, releasing)
    assert releasing._look_at[lease_id] > 2**33
    await provider.chain.refresh()
    await tick(provider, releasing)
    assert releasing._look_at[lease_id] < 2**33


# --- anchors


def anchoring_of(provider: ChainProvider) -> Anchoring:
    return Anchoring(provider.service, provider.client, provider.sender, provider.node)


async def anchored(provider: ChainProvider, job: Anchoring, lease_id: bytes) -> Anchor:
    """One more receipt, and its anchor on chain and known to be final."""
    provider.serve(lease_id)
    await tick(provider, job)
    found: Anchor | None = await tick(provider, job)
    assert found is not None
    return found


def on_chain(market: LiveMarket, provider: ChainProvider) -> bytes:
    word: bytes = market.client.get(market.client.reads.latest_anchor(provider.provider))
    return word


def confirmed(provider: ChainProvider) -> int:
    last = provider.ledger.last_anchor(confirmed=True)
    return last.signed.message.count if last else 0


@pytest.mark.parametrize("undone", [1, 2])
async def test_anchors_that_a_deep_reorganisation_undoes_are_sent_again(
    market: LiveMarket, provider: ChainProvider, undone: int
) -> None:
    """Without a new receipt; and where two are undone, by the newest alone."""
    lease_id = provider.open_lease()
    job = anchoring_of(provider)
    await anchored(provider, job, lease_id)
    provider.sender.policy = SenderPolicy(poll_s=0.02, stuck_s=0)
    before = market.node.snapshot()
    for _ in range(undone):
        last = await anchored(provider, job, lease_id)
    signed = [text for (text,) in provider.ledger._db.execute("SELECT signed FROM anchors ORDER BY count")]
    market.node.revert(before)
    assert on_chain(market, provider) != anchor_word(last)
    assert await tick(provider, job) is None
    assert confirmed(provider) == 1
    await tick(provider, job)
    for _ in range(3):
        provider.sender.step()
        market.node.mine()
    assert on_chain(market, provider) == anchor_word(last)
    assert await tick(provider, job) == last
    assert confirmed(provider) == 1 + undone
    assert [text for (text,) in provider.ledger._db.execute("SELECT signed FROM anchors ORDER BY count")] == signed
    further = await anchored(provider, job, lease_id)
    assert on_chain(market, provider) == anchor_word(further)


async def test_one_answer_about_an_older_anchor_sends_nothing(
    market: LiveMarket, rpc: LyingRpc, provider: ChainProvider
) -> None:
    lease_id = provider.open_lease()
    job = anchoring_of(provider)
    older = await anchored(provider, job, lease_id)
    last = await anchored(provider, job, lease_id)
    data = "0x" + provider.client.reads.latest_anchor(provider.provider).data.hex()

    def behind(call: dict[str, Any], result: Any) -> Any:
        is_asked = call["method"] == "eth_call" and call["params"][0]["data"] == data
        return "0x" + anchor_word(older).hex() if is_asked else result

    nonce = provider.client.transaction_count(provider.sender.address)
    with rpc.telling(behind):
        assert await tick(provider, job) is None
    assert confirmed(provider) == 1
    assert await tick(provider, job) == last
    assert provider.client.transaction_count(provider.sender.address) == nonce
    assert on_chain(market, provider) == anchor_word(last)
