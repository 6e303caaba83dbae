"""LeaseEscrow.collect and the ring of held earnings."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import check_account, check_earnings, fee_of, only_event
from tests.contracts.ape.market import DAY, USD, Market

HOLD = 3 * DAY


def net(cumulative: int) -> int:
    return cumulative - fee_of(cumulative)


def start_of_day(market: Market) -> int:
    """Travel to the beginning of the next day, UTC, and return it."""
    today = (market.now() // DAY + 1) * DAY
    market.travel_to(today)
    return today


@pytest.mark.state_row("H1", "H2")
def test_settle__first_and_second_of_a_day__share_one_word(market: Market) -> None:
    lease_id = market.open()
    today = start_of_day(market)
    receipt = market.settle(market.voucher(lease_id, 10 * USD))
    event = only_event(receipt, market.escrow.HoldStarted)
    assert (event.day, event.hold_days, event.freed) == (today // DAY, 3, 0)
    receipt = market.settle(market.voucher(lease_id, 20 * USD))
    assert not receipt.decode_logs(market.escrow.HoldStarted)
    word = market.escrow.held_words(market.provider, market.usdc)[today // DAY % 8]
    assert word == net(20 * USD) | 3 << 128 | (today // DAY) << 136


@pytest.mark.state_row("H3", "H4")
def test_collect__at_maturity_and_a_second_before__pays_only_then(market: Market, stranger: Any) -> None:
    lease_id = market.open()
    today = start_of_day(market)
    market.settle(market.voucher(lease_id, 10 * USD))
    market.travel_to(today + DAY + HOLD - 10)
    check_earnings(market, held=net(10 * USD))
    with ape.reverts("earnings: nothing matured"):
        market.escrow.collect(market.provider, market.usdc, sender=stranger)
    market.travel_to(today + DAY + HOLD)
    check_earnings(market, held=0, free=net(10 * USD))
    receipt = market.escrow.collect(market.provider, market.usdc, sender=stranger)
    check_account(market, market.provider_owner, net(10 * USD))
    check_earnings(market, held=0)
    event = only_event(receipt, market.escrow.EarningsCollected)
    assert (event.owner, event.amount) == (market.provider_owner, net(10 * USD))


@pytest.mark.state_row("H1")
def test_settle__slot_used_8_days_ago__frees_its_old_amount(market: Market) -> None:
    lease_id = market.open(expiry=market.now() + 20 * DAY)
    today = start_of_day(market)
    market.settle(market.voucher(lease_id, 10 * USD))
    market.travel_to(today + 8 * DAY)
    receipt = market.settle(market.voucher(lease_id, 30 * USD))
    assert only_event(receipt, market.escrow.HoldStarted).freed == net(10 * USD)
    check_earnings(market, held=net(30 * USD) - net(10 * USD), free=net(10 * USD))
    market.escrow.collect(market.provider, market.usdc, sender=market.stranger)
    check_account(market, market.provider_owner, net(10 * USD))


@pytest.mark.state_row("H7")
def test_hold_days__raised__bind_new_days_only(market: Market) -> None:
    lease_id = market.open(expiry=market.now() + 20 * DAY)
    today = start_of_day(market)
    market.settle(market.voucher(lease_id, 10 * USD))
    market.params.set(2, 4, sender=market.deployer)
    market.settle(market.voucher(lease_id, 20 * USD))
    market.travel_to(today + DAY)
    market.settle(market.voucher(lease_id, 30 * USD))
    market.travel_to(today + DAY + HOLD)
    check_earnings(market, held=net(30 * USD) - net(20 * USD), free=net(20 * USD))
    market.travel_to(today + 2 * DAY + HOLD)
    check_earnings(market, held=net(30 * USD) - net(20 * USD), free=net(20 * USD))
    market.travel_to(today + 2 * DAY + 4 * DAY)
    check_earnings(market, held=0, free=net(30 * USD))


@pytest.mark.state_row("H7")
def test_hold_days__lowered__shorten_no_running_hold(market: Market) -> None:
    lease_id = market.open(expiry=market.now() + 20 * DAY)
    today = start_of_day(market)
    market.settle(market.voucher(lease_id, 10 * USD))
    market.params.set(2, 2, sender=market.deployer)
    market.travel_to(today + DAY + HOLD - 10)
    check_earnings(market, held=net(10 * USD))


def test_collect__after_deregistration__still_pays_the_owner(market: Market, provider_owner: Any) -> None:
    market.settled_lease(10 * USD)
    market.staking.start_cooldown(10_000 * 10**18, sender=provider_owner)
    market.travel(5 * DAY)
    market.escrow.collect(market.provider, market.usdc, sender=market.stranger)
    check_account(market, provider_owner, net(10 * USD))


def test_collect__no_such_provider__reverts(market: Market, stranger: Any) -> None:
    with ape.reverts("earnings: no such provider"):
        market.escrow.collect(99, market.usdc, sender=stranger)


def test_collect__twice__reverts(market: Market, stranger: Any) -> None:
    market.settled_lease()
    market.travel(5 * DAY)
    market.escrow.collect(market.provider, market.usdc, sender=stranger)
    with ape.reverts("earnings: nothing matured"):
        market.escrow.collect(market.provider, market.usdc, sender=stranger)
