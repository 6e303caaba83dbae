"""LeaseEscrow.top_up."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import check_account, check_lease, only_event
from tests.contracts.ape.market import DEPOSIT, USD, Market


@pytest.mark.state_row("L3")
def test_top_up__by_anyone__adds_from_the_callers_account(market: Market, stranger: Any, consumer: Any) -> None:
    lease_id = market.open()
    market.deposit(stranger, 5 * USD)
    owner_before = market.escrow.accounts(consumer, market.usdc)
    receipt = market.escrow.top_up(lease_id, 5 * USD, sender=stranger)
    check_lease(market, lease_id, deposit=DEPOSIT + 5 * USD)
    check_account(market, stranger, 0)
    check_account(market, consumer, owner_before)
    event = only_event(receipt, market.escrow.LeaseToppedUp)
    assert (bytes(event.lease_id), event.caller, event.amount) == (lease_id, stranger, 5 * USD)


@pytest.mark.state_row("L8")
def test_top_up__expired_but_not_closed__is_allowed_and_does_not_prolong(market: Market, consumer: Any) -> None:
    lease_id = market.open()
    lease = market.escrow.lease(lease_id)
    market.travel_to(lease.expiry + 1)
    market.escrow.top_up(lease_id, USD, sender=consumer)
    check_lease(market, lease_id, closes_at=lease.closes_at, expiry=lease.expiry)


@pytest.mark.state_row("L9")
@pytest.mark.parametrize("call", ["close", "revoke"])
def test_top_up__closing__reverts(market: Market, consumer: Any, call: str) -> None:
    lease_id = market.open()
    getattr(market.escrow, call)(lease_id, sender=consumer)
    with ape.reverts("leases: closing"):
        market.escrow.top_up(lease_id, USD, sender=consumer)


@pytest.mark.state_row("L15")
def test_top_up__closed__reverts(market: Market, consumer: Any) -> None:
    lease_id = market.open()
    market.travel_to(market.escrow.lease(lease_id).closes_at)
    with ape.reverts("leases: closed"):
        market.escrow.top_up(lease_id, USD, sender=consumer)


def test_top_up__nothing__reverts(market: Market, consumer: Any) -> None:
    lease_id = market.open()
    with ape.reverts("leases: nothing to add"):
        market.escrow.top_up(lease_id, 0, sender=consumer)


def test_top_up__without_money__reverts(market: Market, stranger: Any) -> None:
    lease_id = market.open()
    with ape.reverts("escrow: account too low"):
        market.escrow.top_up(lease_id, 1, sender=stranger)


@pytest.mark.parametrize("amount", [2**96 - DEPOSIT, 2**256 - 1])
def test_top_up__beyond_96_bits__reverts(market: Market, consumer: Any, amount: int) -> None:
    lease_id = market.open()
    with ape.reverts("leases: deposit too large"):
        market.escrow.top_up(lease_id, amount, sender=consumer)


def test_top_up__no_such_lease__reverts(market: Market, consumer: Any) -> None:
    with ape.reverts("leases: no such lease"):
        market.escrow.top_up(b"\x01" * 32, 1, sender=consumer)
