"""LeaseEscrow.close, revoke, release and end_leases: the one clock of a lease."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import check_account, check_books, check_lease, check_skipped, only_event
from tests.contracts.ape.market import DAY, DEPOSIT, HOUR, SKIPPED_CLOSED, USD, Market


@pytest.mark.state_row("L4")
def test_close__by_the_owner__leaves_the_close_delay(market: Market, consumer: Any) -> None:
    lease_id = market.open(close_delay=2 * HOUR)
    receipt = market.escrow.close(lease_id, sender=consumer)
    closes_at = receipt.timestamp + 2 * HOUR
    check_lease(market, lease_id, closes_at=closes_at, is_closing=True, is_revoked=False)
    event = only_event(receipt, market.escrow.LeaseClosed)
    assert (event.caller, event.closes_at, event.revoked) == (consumer, closes_at, False)


@pytest.mark.state_row("L4")
def test_close__by_the_owner_near_the_end__never_prolongs(market: Market, consumer: Any) -> None:
    lease_id = market.open(close_delay=2 * HOUR)
    closes_at = market.escrow.lease(lease_id).closes_at
    market.travel_to(closes_at - HOUR)
    market.escrow.close(lease_id, sender=consumer)
    check_lease(market, lease_id, closes_at=closes_at, is_closing=True)


@pytest.mark.state_row("L5")
def test_revoke__by_the_owner__says_so_and_leaves_the_close_delay(market: Market, consumer: Any) -> None:
    lease_id = market.open()
    receipt = market.escrow.revoke(lease_id, sender=consumer)
    check_lease(market, lease_id, closes_at=receipt.timestamp + HOUR, is_closing=True, is_revoked=True)
    assert only_event(receipt, market.escrow.LeaseClosed).revoked


@pytest.mark.state_row("L6")
@pytest.mark.parametrize("closing", [False, True])
def test_close__by_the_provider__ends_the_lease_at_once(
    market: Market, provider_owner: Any, consumer: Any, closing: bool
) -> None:
    lease_id = market.open()
    if closing:
        market.escrow.close(lease_id, sender=consumer)
    receipt = market.escrow.close(lease_id, sender=provider_owner)
    check_lease(market, lease_id, closes_at=receipt.timestamp, is_closing=True)
    market.escrow.release(lease_id, sender=market.stranger)


def test_close__by_anyone_else__reverts(market: Market, stranger: Any) -> None:
    lease_id = market.open()
    with ape.reverts("leases: not a party"):
        market.escrow.close(lease_id, sender=stranger)


@pytest.mark.parametrize("caller", ["provider_owner", "stranger"])
def test_revoke__by_anyone_but_the_owner__reverts(market: Market, caller: str) -> None:
    lease_id = market.open()
    with ape.reverts("leases: not a party"):
        market.escrow.revoke(lease_id, sender=getattr(market, caller))


@pytest.mark.state_row("L15")
@pytest.mark.parametrize("call", ["close", "revoke"])
def test_close_or_revoke__closed__reverts(market: Market, consumer: Any, call: str) -> None:
    lease_id = market.open()
    market.travel_to(market.escrow.lease(lease_id).closes_at)
    with ape.reverts("leases: closed"):
        getattr(market.escrow, call)(lease_id, sender=consumer)


@pytest.mark.parametrize("call", ["close", "revoke", "release", "lease"])
def test_any_call__no_such_lease__reverts(market: Market, consumer: Any, call: str) -> None:
    with ape.reverts("leases: no such lease"):
        function = getattr(market.escrow, call)
        function(b"\x01" * 32) if call == "lease" else function(b"\x01" * 32, sender=consumer)


@pytest.mark.state_row("L11")
def test_release__closed__returns_the_rest_to_the_owner(market: Market, consumer: Any, stranger: Any) -> None:
    lease_id = market.settled_lease(40 * USD)
    before = market.escrow.accounts(consumer, market.usdc)
    market.travel_to(market.escrow.lease(lease_id).closes_at)
    receipt = market.escrow.release(lease_id, sender=stranger)
    check_account(market, consumer, before + DEPOSIT - 40 * USD)
    check_lease(market, lease_id, deposit=40 * USD, settled=40 * USD, is_released=True)
    assert market.escrow.active_leases(market.provider, 1) == 0
    event = only_event(receipt, market.escrow.LeaseReleased)
    assert (event.owner, event.amount) == (consumer, DEPOSIT - 40 * USD)
    check_books(market, [consumer], [lease_id])


@pytest.mark.state_row("L12")
@pytest.mark.parametrize("closing", [False, True])
def test_release__not_closed__reverts(market: Market, consumer: Any, closing: bool) -> None:
    lease_id = market.open()
    if closing:
        market.escrow.close(lease_id, sender=consumer)
    with ape.reverts("leases: not closed"):
        market.escrow.release(lease_id, sender=consumer)


@pytest.mark.state_row("L13")
def test_released__every_call__is_refused(market: Market, consumer: Any, provider_owner: Any) -> None:
    lease_id = market.open()
    market.escrow.close(lease_id, sender=provider_owner)
    market.escrow.release(lease_id, sender=consumer)
    balance = market.escrow.accounts(consumer, market.usdc)
    with ape.reverts("leases: released"):
        market.escrow.release(lease_id, sender=consumer)
    with ape.reverts("leases: closing"):
        market.escrow.top_up(lease_id, 1, sender=consumer)
    with ape.reverts("leases: closed"):
        market.escrow.close(lease_id, sender=consumer)
    check_skipped(market.settle(market.voucher(lease_id, USD)), market.escrow, SKIPPED_CLOSED)
    check_account(market, consumer, balance)


@pytest.mark.state_row("L14")
def test_end_leases__on_deregistration__lowers_but_never_raises_closes_at(market: Market, provider_owner: Any) -> None:
    long_lease = market.open(expiry=market.now() + 20 * DAY)
    short_lease = market.open(expiry=market.now() + DAY)
    short_end = market.escrow.lease(short_lease).closes_at
    receipt = market.staking.start_cooldown(1, sender=provider_owner)
    assert only_event(receipt, market.escrow.LeasesEnded).ends_at == receipt.timestamp + 6 * DAY
    check_lease(market, long_lease, closes_at=receipt.timestamp + 6 * DAY)
    check_lease(market, short_lease, closes_at=short_end)


def test_end_leases__by_anyone_but_the_registry__reverts(market: Market, provider_owner: Any) -> None:
    with ape.reverts("leases: not the registry"):
        market.escrow.end_leases(market.provider, sender=provider_owner)
