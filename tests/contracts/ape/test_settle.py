"""LeaseEscrow.settle. Forged vouchers are in test_attacks_signatures.py, hostile batches in test_attacks.py."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from tests.contracts.ape.checks import check_books, check_earnings, check_lease, check_skipped, fee_of, only_event
from tests.contracts.ape.market import (
    DEPOSIT,
    SKIPPED_CLOSED,
    SKIPPED_FOREIGN,
    SKIPPED_SETTLED,
    USD,
    Market,
)


@pytest.mark.state_row("L7")
@pytest.mark.parametrize("closing", [False, True])
def test_settle__by_anyone__pays_provider_and_platform(market: Market, consumer: Any, closing: bool) -> None:
    lease_id = market.open()
    if closing:
        market.escrow.close(lease_id, sender=consumer)
    receipt = market.settle(market.voucher(lease_id, 33 * USD + 7, b"\x03" * 32))
    check_lease(market, lease_id, settled=33 * USD + 7, deposit=DEPOSIT)
    fee = fee_of(33 * USD + 7)
    check_earnings(market, held=33 * USD + 7 - fee)
    assert market.escrow.fees(market.usdc) == fee
    event = only_event(receipt, market.escrow.VoucherSettled)
    assert (bytes(event.lease_id), event.paid, event.fee) == (lease_id, 33 * USD + 7, fee)
    assert bytes(event.context) == b"\x03" * 32
    check_books(market, [consumer], [lease_id])


@pytest.mark.state_row("L8")
def test_settle__expired_but_not_closed__still_pays(market: Market) -> None:
    lease_id = market.open()
    market.travel_to(market.escrow.lease(lease_id).closes_at - 10)
    market.settle(market.voucher(lease_id, USD))
    check_lease(market, lease_id, settled=USD)


@pytest.mark.state_row("L10")
def test_settle__closed__is_skipped(market: Market) -> None:
    lease_id = market.open()
    market.chain.pending_timestamp = market.escrow.lease(lease_id).closes_at
    check_skipped(market.settle(market.voucher(lease_id, USD)), market.escrow, SKIPPED_CLOSED)
    check_lease(market, lease_id, settled=0)


def test_settle__second_before_it_closes__pays(market: Market) -> None:
    lease_id = market.open()
    market.chain.pending_timestamp = market.escrow.lease(lease_id).closes_at - 1
    check_skipped(market.settle(market.voucher(lease_id, USD)), market.escrow)


def test_settle__above_the_deposit__pays_the_deposit(market: Market) -> None:
    lease_id = market.open()
    market.settle(market.voucher(lease_id, 2**128 - 1))
    check_lease(market, lease_id, settled=DEPOSIT)


def test_settle__topped_up_later__the_same_voucher_pays_the_rest(market: Market, consumer: Any) -> None:
    lease_id = market.open()
    voucher = market.voucher(lease_id, DEPOSIT + USD)
    market.settle(voucher)
    market.escrow.top_up(lease_id, 5 * USD, sender=consumer)
    market.settle(voucher)
    check_lease(market, lease_id, settled=DEPOSIT + USD)


def test_settle__lower_or_same_cumulative__is_skipped(market: Market) -> None:
    lease_id = market.settled_lease(10 * USD)
    again = [market.voucher(lease_id, amount) for amount in (10 * USD, 9 * USD, 0)]
    check_skipped(market.settle(*again), market.escrow, *[SKIPPED_SETTLED] * 3)
    check_lease(market, lease_id, settled=10 * USD)


def test_settle__any_order_of_the_same_vouchers__ends_the_same(market: Market) -> None:
    ends = set()
    for order in permutations((7, 133, 9_999)):
        lease_id = market.open()
        fees = market.escrow.fees(market.usdc)
        market.settle(*[market.voucher(lease_id, cumulative) for cumulative in order])
        ends.add((market.escrow.lease(lease_id).settled, market.escrow.fees(market.usdc) - fees))
    assert ends == {(9_999, fee_of(9_999))}


def test_settle__empty_batch__changes_nothing(market: Market) -> None:
    assert not list(market.settle().decode_logs())
    check_earnings(market, held=0)


def test_settle__largest_batch__fits(market: Market) -> None:
    lease_id = market.open()
    market.settle(*[market.voucher(lease_id, number) for number in range(1, 129)])
    check_lease(market, lease_id, settled=128)


def test_settle__lease_of_another_provider__is_skipped(market: Market, accounts: Any) -> None:
    other = market.second_provider(accounts[4])
    lease_id = market.open(provider=other)
    check_skipped(market.settle(market.voucher(lease_id, USD)), market.escrow, SKIPPED_FOREIGN)
    check_skipped(market.settle(market.voucher(lease_id, USD), provider=other), market.escrow)
    assert tuple(market.escrow.earnings(other, market.usdc)) == (USD - fee_of(USD), 0)
