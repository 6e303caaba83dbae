"""Providers, nodes and clocks that would have the gateway lock up more than its owner allows, or never get it back."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer import lease as leases
from consumer.gateway.events import FailureClass, RouteFailed
from consumer.spending.lease_notes import Stage
from consumer.spending.running import Spending
from provider.owner import OfferLimits
from tests.consumer.spending.stall import Stall, Wanted, config_of, draft, running, usdc
from tests.support.live_market import LiveMarket, live_market
from tests.support.lying_rpc import LyingRpc, lying_rpc

pytestmark = pytest.mark.asyncio
SMALL = usdc("0.01")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


@pytest.fixture(scope="module")
def stall(market: LiveMarket) -> Stall:
    return Stall(market)


@pytest.fixture
def rpc(market: LiveMarket) -> Iterator[LyingRpc]:
    with lying_rpc(market.node, market.client) as found:
        yield found


async def refused(spending: Spending, wanted: Wanted) -> str:
    with pytest.raises(RouteFailed) as caught:
        await spending.keeper.client_for(wanted, SMALL)
    assert caught.value.failure is FailureClass.MONEY
    return str(caught.value)


async def test_no_offer_takes_a_deposit_beyond_max_locked(stall: Stall, tmp_path: Path) -> None:
    dear = stall.publish(OfferLimits(min_deposit=usdc("2.1")))
    fair = stall.publish(OfferLimits(min_deposit=usdc("1.5")))
    before = stall.account
    async with running(config_of(stall.market, tmp_path, amount="1 USDC", max_locked="2 USDC")) as spending:
        assert "max_locked" in await refused(spending, dear)
        assert stall.account == before
        await spending.keeper.client_for(fair, SMALL)
        assert stall.account == before - usdc("1.5")


async def test_an_opening_that_takes_long_counts_as_locked(
    stall: Stall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stall.publish(), stall.publish()
    node, before = stall.market.node, stall.account
    monkeypatch.setattr(leases, "TIMEOUT_S", 1.0)
    async with running(config_of(stall.market, tmp_path, amount="6 USDC", max_locked="10 USDC")) as spending:
        node.automine(False)
        try:
            await refused(spending, first)
        finally:
            node.automine(True)
        node.mine()
        await spending.keeper.client_for(second, SMALL)
        assert stall.account == before - usdc("10")
        assert {figure.deposit for figure in spending.keeper.figures()} == {usdc("6"), usdc("4")}


async def test_a_provider_that_ends_lease_after_lease_gets_two(stall: Stall, tmp_path: Path) -> None:
    wanted, before = stall.publish(), stall.opened
    async with running(config_of(stall.market, tmp_path, amount="0.1 USDC", max_locked="1 USDC")) as spending:
        for _ in range(5):
            spending.keeper.forget(await spending.keeper.client_for(wanted, SMALL))
        assert stall.opened == before + 2


async def test_no_lease_is_opened_that_is_too_old_by_our_clock(
    stall: Stall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, before = stall.publish(), stall.opened
    async with running(config_of(stall.market, tmp_path)) as spending:
        monkeypatch.setattr(spending.clock, "_own", lambda: time.time() + 30 * 86_400)
        assert "clock" in await refused(spending, wanted)
    assert stall.opened == before


async def test_a_release_that_a_node_made_up_is_taken_back(stall: Stall, rpc: LyingRpc, tmp_path: Path) -> None:
    wanted = stall.publish()
    async with running(config_of(stall.market, tmp_path, rpc=rpc.url)) as spending:
        keeper = spending.keeper
        lease_id = (await keeper.client_for(wanted, SMALL)).record.lease_id
        with rpc.telling(rpc.lease_says(lease_id, is_released=1)):
            await keeper.look_after()
        assert keeper.figures() == []
        await keeper.look_after()
        await keeper.look_after()
        assert [figure.record.lease_id for figure in keeper.figures()] == [lease_id]
        assert (await keeper.client_for(wanted, SMALL)).record.lease_id == lease_id


async def test_a_deposit_that_a_node_made_up_is_taken_back(stall: Stall, rpc: LyingRpc, tmp_path: Path) -> None:
    wanted = stall.publish()
    async with running(config_of(stall.market, tmp_path, rpc=rpc.url, amount="1 USDC")) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        with rpc.telling(rpc.lease_says(client.record.lease_id, deposit=usdc("1000"))):
            await spending.keeper.look_after()
        for _ in range(2):
            await spending.keeper.look_after()
        (figure,) = spending.keeper.figures()
        assert figure.deposit == usdc("1")


async def test_a_lease_that_a_node_says_is_closing_is_closed(stall: Stall, rpc: LyingRpc, tmp_path: Path) -> None:
    wanted = stall.publish()
    async with running(config_of(stall.market, tmp_path, rpc=rpc.url)) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        with rpc.telling(rpc.lease_says(client.record.lease_id, is_closing=1)):
            await spending.keeper.look_after()
        (figure,) = spending.keeper.figures()
        assert figure.stage is Stage.CLOSING
        await spending.keeper.look_after()
        assert stall.market.client.lease(client.record.lease_id).is_closing


async def test_an_opening_whose_failure_a_node_made_up_is_not_lost(stall: Stall, rpc: LyingRpc, tmp_path: Path) -> None:
    wanted, before = stall.publish(), stall.opened

    def failed(call: dict[str, Any], result: Any) -> Any:
        return {**result, "status": "0x0"} if call["method"] == "eth_getTransactionReceipt" and result else result

    async with running(config_of(stall.market, tmp_path, rpc=rpc.url)) as spending:
        with rpc.telling(failed):
            await refused(spending, wanted)
            stall.market.node.mine(100)
            await spending.keeper.look_after()
        await spending.keeper.look_after()
        (figure,) = spending.keeper.figures()
        assert (await spending.keeper.client_for(wanted, SMALL)).record == figure.record
    assert stall.opened == before + 1


async def test_a_node_that_hides_a_top_up_gets_no_second_one(stall: Stall, rpc: LyingRpc, tmp_path: Path) -> None:
    wanted = stall.publish()
    config = config_of(stall.market, tmp_path, rpc=rpc.url, amount="1 USDC", top_up_below=0)
    async with running(config) as spending, asyncio.timeout(60):
        client = await spending.keeper.client_for(wanted, SMALL)
        await client.book.authorise(draft(usdc("0.9")))
        before = stall.account
        for said in ("0.9", "0.8", "0.7"):
            lie = rpc.lease_says(client.record.lease_id, deposit=usdc(said))
            with rpc.telling(lie), pytest.raises(RouteFailed, match="does not show"):
                await spending.keeper.client_for(wanted, usdc("0.5"))
        assert await spending.keeper.client_for(wanted, usdc("0.5")) is client
        assert stall.account == before - usdc("0.9")


async def test_what_a_released_lease_never_told_leaves_the_budgets(stall: Stall, tmp_path: Path) -> None:
    wanted = stall.publish()
    async with running(config_of(stall.market, tmp_path)) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        await client.book.authorise(draft(SMALL))
        await spending.keeper.close_all()
        stall.market.node.time_travel(2 * 3_600)
        stall.market.node.mine()
        await spending.keeper.look_after()
        assert spending.keeper.figures() == []
        assert {figure.held for figure in spending.budgets.figures()} == {0}
