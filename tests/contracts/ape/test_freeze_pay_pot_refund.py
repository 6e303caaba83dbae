"""LeaseEscrow.freeze, pay_pot and refund, called as the Arbitration contract."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import check_account, check_books, check_earnings, fee_of, only_event
from tests.contracts.ape.market import DAY, USD, Market

DISPUTE = b"\xd1" * 32
SETTLED = 40 * USD
NET = SETTLED - fee_of(SETTLED)


def freeze(market: Market, lease_id: bytes, amount: int, dispute: bytes = DISPUTE) -> Any:
    return market.escrow.freeze(dispute, lease_id, amount, sender=market.arbitration)


def pay(market: Market, amount: int, dispute: bytes = DISPUTE) -> Any:
    return market.escrow.pay_pot(dispute, amount, sender=market.arbitration)


def refund(market: Market, lease_id: bytes, amount: int) -> Any:
    return market.escrow.refund(lease_id, amount, sender=market.arbitration)


@pytest.mark.state_row("F1", "H5")
def test_freeze__within_what_is_held__moves_it_into_the_pot(market: Market) -> None:
    lease_id = market.settled_lease(SETTLED)
    receipt = freeze(market, lease_id, 10 * USD)
    check_earnings(market, held=NET - 10 * USD)
    assert tuple(market.escrow.returned(lease_id)) == (0, 10 * USD)
    assert only_event(receipt, market.escrow.EarningsFrozen).amount == 10 * USD
    check_books(market, [market.consumer], [lease_id])


@pytest.mark.state_row("F1")
def test_freeze__more_than_the_lease_paid__stops_at_it_net_of_fee(market: Market) -> None:
    lease_id = market.settled_lease(SETTLED)
    market.settled_lease(50 * USD)
    freeze(market, lease_id, 2**200)
    assert tuple(market.escrow.returned(lease_id)) == (0, NET)


@pytest.mark.state_row("F1", "H5")
def test_freeze__over_several_days__takes_the_newest_first(market: Market) -> None:
    lease_id = market.open()
    today = (market.now() // DAY + 1) * DAY
    for day, cumulative in ((0, 10 * USD), (1, 30 * USD)):
        market.travel_to(today + day * DAY)
        market.settle(market.voucher(lease_id, cumulative))
    freeze(market, lease_id, 20 * USD)
    words = market.escrow.held_words(market.provider, market.usdc)
    amounts = [words[(today // DAY + day) % 8] % 2**128 for day in (0, 1)]
    first, second = 10 * USD - fee_of(10 * USD), 20 * USD - fee_of(30 * USD) + fee_of(10 * USD)
    assert amounts == [first - (20 * USD - second), 0]


@pytest.mark.state_row("F2")
def test_freeze__lease_with_an_open_pot__reverts(market: Market) -> None:
    lease_id = market.settled_lease(SETTLED)
    freeze(market, lease_id, USD)
    with ape.reverts("adjudication: lease has a freeze"):
        freeze(market, lease_id, USD, b"\xd2" * 32)


@pytest.mark.state_row("F3")
def test_pay_pot__part_of_it__pays_the_consumer_and_returns_the_rest_as_old(market: Market, consumer: Any) -> None:
    lease_id = market.settled_lease(SETTLED)
    words = list(market.escrow.held_words(market.provider, market.usdc))
    before = market.escrow.accounts(consumer, market.usdc)
    freeze(market, lease_id, 10 * USD)
    market.travel(DAY)
    receipt = pay(market, 4 * USD)
    check_account(market, consumer, before + 4 * USD)
    check_earnings(market, held=NET - 4 * USD)
    assert tuple(market.escrow.returned(lease_id)) == (4 * USD, 0)
    event = only_event(receipt, market.escrow.PotPaid)
    assert (event.to_consumer, event.to_provider, event.shortfall) == (4 * USD, 6 * USD, 0)
    expected = [word - 4 * USD if word else 0 for word in words]
    assert list(market.escrow.held_words(market.provider, market.usdc)) == expected
    check_books(market, [consumer], [lease_id])


@pytest.mark.state_row("F3")
def test_pay_pot__after_its_slot_was_used_again__returns_the_rest_as_free(market: Market) -> None:
    lease_id = market.open(expiry=market.now() + 20 * DAY)
    market.settle(market.voucher(lease_id, SETTLED))
    freeze(market, lease_id, 10 * USD)
    market.travel(8 * DAY)
    market.settle(market.voucher(lease_id, SETTLED + USD))
    pay(market, 0)
    check_earnings(market, held=USD - fee_of(USD), free=NET)


@pytest.mark.state_row("F3")
def test_pay_pot__more_than_the_day_allows__reports_the_shortfall(market: Market) -> None:
    lease_id = market.settled_lease(SETTLED)
    freeze(market, lease_id, NET)
    event = only_event(pay(market, NET), market.escrow.PotPaid)
    assert (event.to_consumer, event.to_provider, event.shortfall) == (NET // 2, NET - NET // 2, NET - NET // 2)


@pytest.mark.state_row("F4")
def test_pay_pot__paid_already__reverts_and_the_dispute_never_freezes_again(market: Market) -> None:
    lease_id = market.settled_lease(SETTLED)
    freeze(market, lease_id, USD)
    pay(market, USD)
    with ape.reverts("adjudication: no pot"):
        pay(market, USD)
    with ape.reverts("adjudication: dispute has frozen"):
        freeze(market, lease_id, USD)
    freeze(market, lease_id, USD, b"\xd2" * 32)


@pytest.mark.state_row("F5", "F7")
def test_freeze__that_nobody_ends__delays_nothing_else(market: Market, consumer: Any) -> None:
    lease_id = market.settled_lease(SETTLED)
    freeze(market, lease_id, 10 * USD)
    market.settle(market.voucher(lease_id, SETTLED + USD))
    market.escrow.close(lease_id, sender=market.provider_owner)
    market.escrow.release(lease_id, sender=market.stranger)
    market.travel(60 * DAY)
    market.escrow.collect(market.provider, market.usdc, sender=market.stranger)
    gross = SETTLED + USD
    check_account(market, market.provider_owner, gross - fee_of(gross) - 10 * USD)
    assert tuple(market.escrow.returned(lease_id)) == (0, 10 * USD)
    check_books(market, [consumer, market.provider_owner], [lease_id])


@pytest.mark.state_row("F6")
def test_refund__within_every_limit__comes_from_held_earnings(market: Market, consumer: Any) -> None:
    lease_id = market.settled_lease(SETTLED)
    before = market.escrow.accounts(consumer, market.usdc)
    event = only_event(refund(market, lease_id, 7 * USD), market.escrow.Refunded)
    assert (event.owner, event.amount, event.shortfall) == (consumer, 7 * USD, 0)
    check_account(market, consumer, before + 7 * USD)
    check_earnings(market, held=NET - 7 * USD)
    assert tuple(market.escrow.returned(lease_id)) == (7 * USD, 0)
    assert market.escrow.fees(market.usdc) == fee_of(SETTLED)
    check_books(market, [consumer], [lease_id])


@pytest.mark.state_row("F6")
def test_refund__twice_in_a_day__stops_at_half_of_the_bond(market: Market) -> None:
    lease_id = market.settled_lease(SETTLED)
    refund(market, lease_id, NET // 4)
    event = only_event(refund(market, lease_id, NET), market.escrow.Refunded)
    assert event.amount == NET // 2 - NET // 4
    assert event.shortfall == NET - event.amount
    market.travel(DAY)
    left = NET - NET // 2
    assert only_event(refund(market, lease_id, NET), market.escrow.Refunded).amount == left // 2


@pytest.mark.state_row("F6", "H6")
def test_refund__nothing_held_any_more__is_lost_and_emitted(market: Market, consumer: Any) -> None:
    lease_id = market.settled_lease(SETTLED)
    before = market.escrow.accounts(consumer, market.usdc)
    market.travel(5 * DAY)
    event = only_event(refund(market, lease_id, USD), market.escrow.Refunded)
    assert (event.amount, event.shortfall) == (0, USD)
    check_account(market, consumer, before)
    check_earnings(market, held=0, free=NET)


@pytest.mark.state_row("H6")
def test_freeze__matured__reverts(market: Market) -> None:
    lease_id = market.settled_lease(SETTLED)
    market.travel(5 * DAY)
    with ape.reverts("adjudication: nothing to freeze"):
        freeze(market, lease_id, USD)


@pytest.mark.state_row("F8")
@pytest.mark.parametrize("caller", ["deployer", "provider_owner", "consumer", "stranger"])
def test_rulings__by_anyone_but_arbitration__revert(market: Market, caller: str) -> None:
    lease_id = market.settled_lease(SETTLED)
    sender = getattr(market, caller)
    for call, arguments in (("freeze", (DISPUTE, lease_id, 1)), ("pay_pot", (DISPUTE, 1)), ("refund", (lease_id, 1))):
        with ape.reverts("adjudication: not arbitration"):
            getattr(market.escrow, call)(*arguments, sender=sender)


@pytest.mark.state_row("F8")
def test_arbitration__of_this_deployment__refuses_every_call(market: Market, stranger: Any) -> None:
    with ape.reverts("arbitration: not in this deployment"):
        stranger.transfer(market.arbitration, value=0, data=b"\x01\x02\x03\x04")
