"""LeaseEscrow.collect_fees: the split between stakers and treasury."""

from __future__ import annotations

from typing import Any

from tests.contracts.ape.checks import check_account, fee_of, only_event
from tests.contracts.ape.market import USD, Market


def test_collect_fees__by_anyone__splits_in_halves(market: Market, stranger: Any) -> None:
    market.settled_lease(33 * USD + 21)
    fee = fee_of(33 * USD + 21)
    assert fee % 2 == 1
    receipt = market.escrow.collect_fees(market.usdc, sender=stranger)
    check_account(market, market.staking, fee // 2)
    check_account(market, market.deployer, fee - fee // 2)
    assert market.escrow.fees(market.usdc) == 0
    event = only_event(receipt, market.escrow.FeesCollected)
    assert (event.to_stakers, event.to_treasury) == (fee // 2, fee - fee // 2)


def test_collect_fees__share_and_treasury_changed__follow_them(market: Market, stranger: Any, consumer: Any) -> None:
    market.settled_lease(40 * USD)
    market.params.set(1, 6_000, sender=market.deployer)
    market.params.set_treasury(stranger, sender=market.deployer)
    market.escrow.collect_fees(market.usdc, sender=consumer)
    check_account(market, market.staking, fee_of(40 * USD) * 6 // 10)
    check_account(market, stranger, fee_of(40 * USD) * 4 // 10)


def test_collect_fees__none__changes_nothing(market: Market, stranger: Any) -> None:
    market.escrow.collect_fees(market.usdc, sender=stranger)
    check_account(market, market.staking, 0)
