"""Leases on a real chain: one per offer, opened once, topped up, replaced, closed and released, through kills."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.gateway.events import FailureClass, RouteFailed
from consumer.lease_client import LeaseClient
from consumer.spending.budgets import BudgetExceeded
from consumer.spending.desk import LeaseDesk
from consumer.spending.lease_notes import Stage
from consumer.spending.running import Spending
from protocol.chain.views import Lease
from provider.owner import OfferLimits
from tests.consumer.spending.dying_keeper import MOMENTS
from tests.consumer.spending.stall import Stall, Wanted, config_of, draft, running, usdc
from tests.support.anvil import ROOT
from tests.support.live_market import LiveMarket, live_market
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

SMALL = usdc("0.01")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


@pytest.fixture(scope="module")
def stall(market: LiveMarket) -> Stall:
    return Stall(market)


def on_chain(stall: Stall, client: LeaseClient) -> Lease:
    return stall.market.client.lease(client.record.lease_id)


def heard(monkeypatch: pytest.MonkeyPatch, name: str) -> asyncio.Event:
    """Set when the desk begins to do this."""
    event, loop, original = asyncio.Event(), asyncio.get_running_loop(), getattr(LeaseDesk, name)

    def noticed(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(event.set)
        return original(*arguments)

    monkeypatch.setattr(LeaseDesk, name, noticed)
    return event


async def refused(spending: Spending, wanted: Wanted, needed: int) -> RouteFailed:
    with pytest.raises(RouteFailed) as caught:
        await spending.keeper.client_for(wanted, needed)
    assert caught.value.failure is FailureClass.MONEY
    return caught.value


async def test_requests_at_once_share_one_lease_and_a_restart_goes_on_with_it(stall: Stall, tmp_path: Path) -> None:
    wanted, before = stall.publish(), stall.opened
    config = config_of(stall.market, tmp_path, amount="1 USDC")
    async with running(config) as spending:
        assert not spending.keeper.has_room(wanted, SMALL)
        clients = await asyncio.gather(*(spending.keeper.client_for(wanted, SMALL) for _ in range(10)))
        assert len(set(clients)) == 1
        assert spending.keeper.has_room(wanted, SMALL)
        assert on_chain(stall, clients[0]).deposit == clients[0].room() == usdc("1")
        assert clients[0].counter is spending.tokenizers.for_document(wanted.offer.document) is not None
    async with running(config) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        assert client.record.lease_id == clients[0].record.lease_id
        assert client.counter is not None
    assert stall.opened == before + 1


async def test_a_lease_with_room_needs_neither_chain_nor_disk(
    stall: Stall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = stall.publish()
    async with running(config_of(stall.market, tmp_path)) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)

        async def forbidden(*_: object) -> None:
            raise AssertionError("a thread was used")

        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "to_thread", forbidden)
            patched.setattr(spending.keeper, "_store", None)
            patched.setattr(spending.keeper, "_notes", None)
            assert await spending.keeper.client_for(wanted, SMALL) is client


async def test_a_lease_without_enough_room_is_topped_up_and_stays_so_after_a_restart(
    stall: Stall, tmp_path: Path
) -> None:
    wanted, before = stall.publish(), stall.opened
    config = config_of(stall.market, tmp_path, amount="1 USDC", top_up_below=0)
    async with running(config) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        await client.book.authorise(draft(usdc("0.7")))
        assert client.room() == usdc("0.3")
        assert await spending.keeper.client_for(wanted, usdc("0.5")) is client
        assert client.room() == usdc("1")
        await spending.keeper.client_for(wanted, usdc("1.2"))
        assert client.room() == usdc("1.2")
        assert on_chain(stall, client).deposit == usdc("1.9")
    async with running(config) as spending:
        (figure,) = spending.keeper.figures()
        assert (figure.deposit, figure.room, figure.stage) == (usdc("1.9"), usdc("1.2"), Stage.OPEN)
    assert stall.opened == before + 1


async def test_a_lease_that_runs_low_is_topped_up_beside_the_request(stall: Stall, tmp_path: Path) -> None:
    wanted = stall.publish()
    async with running(config_of(stall.market, tmp_path, amount="1 USDC", top_up_below=0.5)) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        await client.book.authorise(draft(usdc("0.6")))
        await spending.keeper.client_for(wanted, SMALL)
        await until(lambda: client.room() == usdc("1"))
        assert on_chain(stall, client).deposit == usdc("1.6")


async def test_a_request_that_goes_away_leaves_its_opening_to_the_next(
    stall: Stall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, before = stall.publish(), stall.opened
    begun = heard(monkeypatch, "open")
    async with running(config_of(stall.market, tmp_path)) as spending:
        first = asyncio.create_task(spending.keeper.client_for(wanted, SMALL))
        await begun.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert first.cancelled()
        await spending.keeper.client_for(wanted, SMALL)
    assert stall.opened == before + 1


async def test_no_more_is_locked_than_allowed(stall: Stall, tmp_path: Path) -> None:
    wanted, other, third = stall.publish(), stall.publish(), stall.publish()
    async with running(config_of(stall.market, tmp_path, amount="1 USDC", max_locked="1.5 USDC")) as spending:
        await spending.keeper.client_for(wanted, SMALL)
        client = await spending.keeper.client_for(other, SMALL)
        assert on_chain(stall, client).deposit == usdc("0.5")
        before = stall.opened
        assert (await refused(spending, third, SMALL)).code == "max_locked"
        assert (await refused(spending, wanted, usdc("2"))).code == "max_locked"
        assert stall.opened == before
        assert await spending.keeper.client_for(wanted, usdc("1"))


async def test_what_the_account_does_not_hold_is_refused(stall: Stall, tmp_path: Path) -> None:
    wanted, before = stall.publish(), stall.opened
    config = config_of(stall.market, tmp_path, amount="1 USDC", max_locked="1000 USDC")
    async with running(config) as spending:
        assert (await refused(spending, wanted, stall.account + 1)).code == "account_too_low"
        assert spending.keeper.figures() == []
    assert stall.opened == before


async def test_offers_that_cannot_be_leased_are_refused(stall: Stall, tmp_path: Path) -> None:
    before = stall.opened
    in_claw = stall.publish(token=stall.market.client.deployment.address("ClawToken"))
    short = stall.publish(OfferLimits(max_duration=900))
    stale = stall.publish()
    stall.change(stale)
    async with running(config_of(stall.market, tmp_path)) as spending:
        assert (await refused(spending, in_claw, SMALL)).code == "other_token"
        assert "too short" in str(await refused(spending, short, SMALL))
        assert "has changed" in str(await refused(spending, stale, SMALL))
    assert stall.opened == before


async def test_new_terms_get_a_new_lease_and_the_old_one_is_closed_and_released(stall: Stall, tmp_path: Path) -> None:
    wanted = stall.publish()
    account = stall.account
    async with running(config_of(stall.market, tmp_path, amount="1 USDC")) as spending:
        old = await spending.keeper.client_for(wanted, SMALL)
        changed = stall.change(wanted)
        new = await spending.keeper.client_for(changed, SMALL)
        assert new.record.lease_id != old.record.lease_id
        assert new.record.terms.price_out == wanted.offer.terms.price_out + 1
        await spending.keeper.look_after()
        assert on_chain(stall, old).is_closing
        assert not on_chain(stall, new).is_closing
        assert stall.account == account - usdc("2")
        stall.market.node.time_travel(3_700)
        await spending.keeper.look_after()
        assert on_chain(stall, old).is_released
        assert stall.account == account - usdc("1")
        assert await spending.keeper.client_for(changed, SMALL) is new
        assert [figure.record.lease_id for figure in spending.keeper.figures()] == [new.record.lease_id]


async def test_a_lease_near_its_end_is_replaced(stall: Stall, tmp_path: Path) -> None:
    wanted = stall.publish()
    config = config_of(stall.market, tmp_path, days=0.05)
    async with running(config) as spending:
        old = await spending.keeper.client_for(wanted, SMALL)
        stall.market.node.time_travel(4_320 - 500)
        await spending.keeper.look_after()
        new = await spending.keeper.client_for(wanted, SMALL)
        assert new.record.lease_id != old.record.lease_id
    async with running(config) as spending:
        assert (await spending.keeper.client_for(wanted, SMALL)).record.lease_id == new.record.lease_id


async def test_a_lease_that_the_provider_ended_is_replaced(stall: Stall, tmp_path: Path) -> None:
    wanted = stall.publish()
    async with running(config_of(stall.market, tmp_path)) as spending:
        old = await spending.keeper.client_for(wanted, SMALL)
        stall.market.call(1, f"close-{old.record.lease_id.hex()}", "LeaseEscrow", "close", old.record.lease_id)
        spending.keeper.forget(old)
        new = await spending.keeper.client_for(wanted, SMALL)
        assert new.record.lease_id != old.record.lease_id
        await spending.keeper.look_after()
        assert on_chain(stall, old).is_released


async def test_all_leases_are_closed_on_demand(stall: Stall, tmp_path: Path) -> None:
    wanted = stall.publish()
    config = config_of(stall.market, tmp_path)
    async with running(config) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        assert await spending.keeper.close_all() == 1
        assert await spending.keeper.close_all() == 0
        assert on_chain(stall, client).is_closing
        assert not spending.keeper.has_room(wanted, SMALL)
    async with running(config) as spending:
        assert not spending.keeper.has_room(wanted, SMALL)


async def test_without_the_chain_open_leases_go_on(stall: Stall, tmp_path: Path) -> None:
    wanted, other = stall.publish(), stall.publish()
    with TcpProxy(stall.market.node.port) as proxy:
        config = config_of(stall.market, tmp_path, proxy.url, amount="1 USDC")
        async with running(config) as spending:
            lease_id = (await spending.keeper.client_for(wanted, SMALL)).record.lease_id
            proxy.cut()
            assert (await spending.keeper.client_for(wanted, SMALL)).record.lease_id == lease_id
            failed = await refused(spending, other, SMALL)
            assert (failed.status, failed.code) == (503, "chain_error")
        async with running(config) as spending:
            assert (await spending.keeper.client_for(wanted, SMALL)).record.lease_id == lease_id
            proxy.restore()
            before = stall.opened
            await spending.keeper.client_for(other, SMALL)
    assert stall.opened == before + 1


async def test_nothing_is_signed_for_beyond_the_budget(stall: Stall, tmp_path: Path) -> None:
    wanted = stall.publish()
    config = config_of(stall.market, tmp_path, amount="8 USDC")
    async with running(config) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        key, _ = spending.keys.make("alice")
        await client.book.authorise(draft(usdc("3"), key.key_id))
        with pytest.raises(BudgetExceeded):
            await client.book.authorise(draft(usdc("2.1")))
        assert client.room() == usdc("5")
    async with running(config) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        with pytest.raises(BudgetExceeded):
            await client.book.authorise(draft(usdc("2.1")))
        await client.book.authorise(draft(usdc("2")))


def back(proxy: TcpProxy) -> None:
    """Ends an outage, if there is one."""
    proxy.cut()
    proxy.restore()


async def die(folder: Path, needed: int, moment: str) -> None:
    """A gateway that wants this much room and is killed at this moment."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.consumer.spending.dying_keeper", folder, str(needed), moment), cwd=ROOT
    )
    assert await process.wait() == -signal.SIGKILL


async def test_what_became_of_leases_is_known_without_the_chain(stall: Stall, tmp_path: Path) -> None:
    topped_up, closed = stall.publish(), stall.publish()
    with TcpProxy(stall.market.node.port) as proxy:
        config = config_of(stall.market, tmp_path, proxy.url, amount="1 USDC", top_up_below=0)
        async with running(config) as spending:
            await spending.keeper.client_for(closed, SMALL)
            await spending.keeper.close_all()
            client = await spending.keeper.client_for(topped_up, SMALL)
            await client.book.authorise(draft(usdc("0.9")))
            await spending.keeper.client_for(topped_up, usdc("1"))
        proxy.cut()
        async with running(config) as spending:
            assert not spending.keeper.has_room(closed, SMALL)
            client = await spending.keeper.client_for(topped_up, usdc("1"))
            assert client.room() == usdc("1")


@pytest.fixture(params=["the chain is there", "the chain comes back after the start"])
def proxy(request: pytest.FixtureRequest, stall: Stall) -> Iterator[TcpProxy]:
    """What a gateway reaches the chain through."""
    with TcpProxy(stall.market.node.port) as found:
        if "comes back" in request.param:
            found.cut()
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if "topping" not in moment])
async def test_a_kill_never_makes_two_leases_of_one_wish(
    stall: Stall, tmp_path: Path, proxy: TcpProxy, moment: str
) -> None:
    wanted, before = stall.publish(), stall.opened
    config = config_of(stall.market, tmp_path, amount="1 USDC")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "wanted.json").write_text(wanted.to_json())
    await die(tmp_path, SMALL, moment)
    async with running(config.model_copy(update={"rpc": [proxy.url]})) as spending:
        back(proxy)
        client = await spending.keeper.client_for(wanted, SMALL)
        assert on_chain(stall, client).deposit == usdc("1")
        assert len(spending.keeper.figures()) == 1
        assert spending.keeper._store.leases(is_open=False) == []
    assert stall.opened == before + 1


@pytest.mark.slow
@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if "topping" in moment])
async def test_a_kill_never_tops_up_twice(stall: Stall, tmp_path: Path, proxy: TcpProxy, moment: str) -> None:
    wanted, account = stall.publish(), stall.account
    config = config_of(stall.market, tmp_path, amount="1 USDC", top_up_below=0)
    async with running(config) as spending:
        client = await spending.keeper.client_for(wanted, SMALL)
        await client.book.authorise(draft(usdc("0.9")))
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "wanted.json").write_text(wanted.to_json())
    await die(tmp_path, usdc("0.5"), moment)
    async with running(config.model_copy(update={"rpc": [proxy.url]})) as spending:
        back(proxy)
        client = await spending.keeper.client_for(wanted, usdc("0.5"))
        assert client.book.deposit == on_chain(stall, client).deposit == usdc("1.9")
    assert stall.account == account - usdc("1.9")


async def test_an_interrupted_opening_that_the_chain_does_not_show_yet_is_waited_for(
    stall: Stall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, before = stall.publish(), stall.opened
    config = config_of(stall.market, tmp_path)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "wanted.json").write_text(wanted.to_json())
    stall.market.node.automine(False)
    try:
        await die(tmp_path, SMALL, "after sending")
        assert stall.opened == before
        seen = heard(monkeypatch, "finish_openings")

        async def go_on() -> bytes:
            async with running(config) as spending:
                return (await spending.keeper.client_for(wanted, SMALL)).record.lease_id

        again = asyncio.create_task(go_on())
        await seen.wait()
    finally:
        stall.market.node.automine(True)
        stall.market.node.mine()
    lease_id = await again
    assert stall.opened == before + 1
    assert stall.market.client.lease(lease_id).offer_id == wanted.offer.offer_id
