"""Tokens that misbehave: refused with a clear reason, or harmless to everybody else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import check_account, check_books, check_earnings, fee_of
from tests.contracts.ape.market import DAY, HOUR, USD, ZERO32, Market

AMOUNT = 50 * USD


@pytest.fixture
def listed(market: Market, project: Any) -> Any:
    """Deploys a mock token by name, listed and with AMOUNT in the consumer's account and in its wallet."""

    def make(name: str) -> Any:
        token = market.deployer.deploy(getattr(project, name))
        market.params.list_token(token, True, sender=market.deployer)
        market.deposit(market.consumer, AMOUNT, token)
        market.give(token, market.consumer, AMOUNT)
        return token

    return make


def lease_in(market: Market, token: Any) -> bytes:
    """A lease of AMOUNT in this token, under a new offer, with AMOUNT settled."""
    offer = replace(market.offer, token=token.address)
    market.registry.create_offer(market.provider, offer.as_tuple(), sender=market.provider_owner)
    offer_id = market.registry.offer_count(market.provider)
    lease_id = market.open(offer_id=offer_id, token=token.address, amount=AMOUNT)
    market.settle(market.voucher(lease_id, AMOUNT), token=token)
    return lease_id


def check_market_still_works(market: Market) -> None:
    """Another token's whole way, in and out."""
    lease_id = market.open()
    market.settle(market.voucher(lease_id, USD))
    market.escrow.withdraw(market.usdc, USD, market.consumer, sender=market.consumer)
    market.deposit(market.consumer, USD)


def test_no_return_token__the_whole_way__works_like_any_other(market: Market, listed: Any) -> None:
    token = listed("NoReturnToken")
    lease_id = lease_in(market, token)
    check_earnings(market, held=AMOUNT - fee_of(AMOUNT), token=token)
    check_books(market, [market.consumer], [lease_id], token)
    market.travel(5 * DAY)
    market.escrow.collect(market.provider, token, sender=market.stranger)
    earned = AMOUNT - fee_of(AMOUNT)
    market.escrow.withdraw(token, earned, market.provider_owner, sender=market.provider_owner)
    assert token.balanceOf(market.provider_owner) == earned
    market.staking.pull_fees(token, sender=market.stranger)
    assert token.balanceOf(market.staking) == fee_of(AMOUNT) // 2
    check_books(market, [market.consumer, market.provider_owner], [lease_id], token)


def test_false_return_token__deposit__is_refused(market: Market, listed: Any) -> None:
    token = listed("FalseReturnToken")
    token.set_broken(True, sender=market.stranger)
    with ape.reverts("escrow: transfer failed"):
        market.escrow.deposit(token, AMOUNT, market.consumer, sender=market.consumer)
    check_account(market, market.consumer, AMOUNT, token)
    check_market_still_works(market)


def test_false_return_token__withdraw__is_refused_and_costs_nothing(market: Market, listed: Any) -> None:
    token = listed("FalseReturnToken")
    token.set_broken(True, sender=market.stranger)
    with ape.reverts("escrow: transfer failed"):
        market.escrow.withdraw(token, AMOUNT, market.consumer, sender=market.consumer)
    check_account(market, market.consumer, AMOUNT, token)
    token.set_broken(False, sender=market.stranger)
    market.escrow.withdraw(token, AMOUNT, market.consumer, sender=market.consumer)
    check_account(market, market.consumer, 0, token)


def test_reverting_token__deposit__passes_its_reason_on(market: Market, listed: Any) -> None:
    token = listed("RevertingToken")
    token.set_broken(True, sender=market.stranger)
    with ape.reverts("mock: token is paused"):
        market.escrow.deposit(token, AMOUNT, market.consumer, sender=market.consumer)
    with ape.reverts("mock: token is paused"):
        market.escrow.deposit_with_permit(token, AMOUNT, 0, 0, ZERO32, ZERO32, sender=market.consumer)
    check_account(market, market.consumer, AMOUNT, token)
    check_market_still_works(market)


def test_reverting_token__while_paused__leases_still_settle_close_and_release(market: Market, listed: Any) -> None:
    token = listed("RevertingToken")
    token.set_broken(True, sender=market.stranger)
    lease_id = lease_in(market, token)
    market.escrow.close(lease_id, sender=market.provider_owner)
    market.escrow.release(lease_id, sender=market.stranger)
    market.travel(5 * DAY)
    market.escrow.collect(market.provider, token, sender=market.stranger)
    market.escrow.collect_fees(token, sender=market.stranger)
    with ape.reverts("mock: token is paused"):
        market.staking.pull_fees(token, sender=market.stranger)
    earned = AMOUNT - fee_of(AMOUNT)
    with ape.reverts("mock: token is paused"):
        market.escrow.withdraw(token, earned, market.provider_owner, sender=market.provider_owner)
    token.set_broken(False, sender=market.stranger)
    market.escrow.withdraw(token, earned, market.provider_owner, sender=market.provider_owner)
    check_books(market, [market.consumer, market.provider_owner], [lease_id], token)


def test_fee_on_transfer_token__deposit__is_refused(market: Market, listed: Any) -> None:
    token = listed("FeeOnTransferToken")
    token.set_fee(1, sender=market.stranger)
    with ape.reverts("escrow: token takes a fee"):
        market.escrow.deposit(token, AMOUNT, market.consumer, sender=market.consumer)
    with ape.reverts("escrow: token takes a fee"):
        market.escrow.deposit_with_permit(token, AMOUNT, 0, 0, ZERO32, ZERO32, sender=market.consumer)
    check_account(market, market.consumer, AMOUNT, token)


def test_fee_on_transfer_token__that_turned_later__still_leaves(market: Market, listed: Any) -> None:
    token = listed("FeeOnTransferToken")
    token.set_fee(100, sender=market.stranger)
    market.escrow.withdraw(token, AMOUNT, market.stranger, sender=market.consumer)
    assert token.balanceOf(market.stranger) == AMOUNT * 99 // 100
    check_account(market, market.consumer, 0, token)


def test_blacklisted_payee__withdraw__blocks_that_payee_alone(market: Market, listed: Any) -> None:
    token = listed("BlacklistToken")
    lease_id = lease_in(market, token)
    market.deposit(market.consumer, AMOUNT, token)
    token.set_blacklisted(market.provider_owner, True, sender=market.stranger)
    market.travel(5 * DAY)
    market.escrow.collect(market.provider, token, sender=market.stranger)
    earned = AMOUNT - fee_of(AMOUNT)
    with ape.reverts("mock: account is blacklisted"):
        market.escrow.withdraw(token, earned, market.provider_owner, sender=market.provider_owner)
    market.escrow.withdraw(token, AMOUNT, market.consumer, sender=market.consumer)
    market.staking.pull_fees(token, sender=market.stranger)
    market.escrow.withdraw(token, earned, market.stranger, sender=market.provider_owner)
    assert token.balanceOf(market.stranger) == earned
    check_books(market, [market.consumer, market.provider_owner], [lease_id], token)


def test_blacklisted_consumer__settle_and_release__go_on(market: Market, listed: Any) -> None:
    token = listed("BlacklistToken")
    token.set_blacklisted(market.consumer, True, sender=market.stranger)
    lease_id = lease_in(market, token)
    market.escrow.close(lease_id, sender=market.consumer)
    market.travel(HOUR)
    market.escrow.release(lease_id, sender=market.stranger)
    check_earnings(market, held=AMOUNT - fee_of(AMOUNT), token=token)


def test_blacklisted_staking__pull_fees__blocks_no_stake(market: Market, listed: Any) -> None:
    token = listed("BlacklistToken")
    lease_in(market, token)
    token.set_blacklisted(market.staking, True, sender=market.stranger)
    with ape.reverts("mock: account is blacklisted"):
        market.staking.pull_fees(token, sender=market.stranger)
    stake = market.staking.active_stake(market.provider_owner)
    market.staking.start_cooldown(stake, sender=market.provider_owner)
    market.travel(21 * DAY)
    market.staking.withdraw(market.provider_owner, sender=market.provider_owner)
    assert market.claw.balanceOf(market.provider_owner) == stake


def test_blacklisted_treasury__collect_fees__blocks_no_staker(market: Market, listed: Any) -> None:
    token = listed("BlacklistToken")
    lease_in(market, token)
    token.set_blacklisted(market.deployer, True, sender=market.stranger)
    market.staking.pull_fees(token, sender=market.stranger)
    assert token.balanceOf(market.staking) == fee_of(AMOUNT) // 2
    check_account(market, market.deployer, fee_of(AMOUNT) - fee_of(AMOUNT) // 2, token)


def test_reward_token_that_reverts__claim__hurts_that_token_alone(market: Market, listed: Any) -> None:
    token = listed("RevertingToken")
    lease_in(market, token)
    market.settle(market.voucher(market.open(), AMOUNT))
    for reward in (token, market.usdc):
        market.staking.pull_fees(reward, sender=market.stranger)
    market.travel(7 * DAY)
    token.set_broken(True, sender=market.stranger)
    owner = market.provider_owner
    with ape.reverts("mock: token is paused"):
        market.staking.claim(token, owner, sender=owner)
    market.staking.claim(market.usdc, owner, sender=owner)
    assert market.usdc.balanceOf(owner) > 0
    market.staking.start_cooldown(1, sender=owner)


def test_reward_token_that_returns_false__claim__is_refused_and_kept(market: Market, listed: Any) -> None:
    token = listed("FalseReturnToken")
    lease_in(market, token)
    market.staking.pull_fees(token, sender=market.stranger)
    market.travel(7 * DAY)
    owner = market.provider_owner
    owed = market.staking.earned(owner, token)
    token.set_broken(True, sender=market.stranger)
    with ape.reverts("staking: reward transfer failed"):
        market.staking.claim(token, owner, sender=owner)
    token.set_broken(False, sender=market.stranger)
    market.staking.claim(token, owner, sender=owner)
    assert token.balanceOf(owner) == owed > 0
