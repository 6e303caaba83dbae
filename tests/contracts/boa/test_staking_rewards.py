"""Staking's rewards: pulled from the escrow, streamed to active stake, claimed token by token."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import boa
import pytest

from tests.contracts.boa.chain import (
    ZERO,
    account,
    credit_stakers,
    events,
    pass_time,
    stream,
    weird_token,
)
from tests.contracts.boa.market import CLAW, CONTRACTS, DAY, Market, deployer, signer, with_offer

WEEK = 7 * DAY
CAP = 2**120
WEIRD = ["FalseReturnToken", "RevertingToken", "BlacklistToken", "FeeOnTransferToken", "ReentrantToken"]


def claim(market: Market, who: str, token: Any) -> int:
    """Claim to oneself."""
    with boa.env.prank(who):
        return int(market.staking.claim(token.address, who))


def turn(token: Any, name: str, market: Market) -> None:
    """Switch on a weird token's bad side."""
    if name == "BlacklistToken":
        token.set_blacklisted(market.staking.address, True)
    elif name == "FeeOnTransferToken":
        token.set_fee(10_000)
    elif name == "ReentrantToken":
        data = market.staking.claim.prepare_calldata(token.address, account("alice"))
        token.set_callback(market.staking.address, data, True)
    else:
        token.set_broken(True)


def test_pull_fees__after_a_settlement__streams_the_stakers_half_of_the_fee(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    consumer, session = account("consumer"), signer("session")
    market.deposit(consumer, market.usdc, 1_000_000)
    lease_id = market.open(market.request(consumer, provider, session, 1_000_000))
    market.escrow.settle(provider, market.usdc.address, [market.voucher(lease_id, session, 1_000_000)])
    with boa.env.prank(account("keeper")):
        assert market.staking.pull_fees(market.usdc.address) == 25_000
    assert events(market.staking, "RewardsAdded") == [(market.usdc.address, account("keeper"), 25_000, 25_000, WEEK)]
    assert market.usdc.balanceOf(market.staking.address) == 25_000
    assert market.escrow.accounts(market.treasury, market.usdc.address) == 25_000
    pass_time(WEEK)
    assert claim(market, owner, market.usdc) in (24_999, 25_000)


def test_pull_fees__with_nothing_there__adds_no_token_and_restarts_nothing(market: Market) -> None:
    assert market.staking.pull_fees(market.usdc.address) == 0
    assert market.staking.reward_tokens() == []
    market.stake(account("alice"), 10)
    stream(market, market.usdc, WEEK)
    pass_time(DAY)
    for _ in range(3):
        assert market.staking.pull_fees(market.usdc.address) == 0
    assert market.staking.stream(market.usdc.address) == (WEEK - DAY, WEEK - DAY)


def test_pull_fees__of_tokens_sent_without_a_call__counts_none(market: Market) -> None:
    market.stake(account("alice"), 10)
    with boa.env.prank(market.admin):
        market.usdc.transfer(market.staking.address, 1_000)
    assert stream(market, market.usdc, 7) == 7
    assert market.staking.booked_rewards(market.usdc.address) == 7


def test_stream__over_a_week__releases_evenly(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    stream(market, market.usdc, 100 * WEEK)
    for day in range(1, 8):
        pass_time(DAY)
        assert market.staking.earned(alice, market.usdc.address) == 100 * DAY * day
    pass_time(DAY)
    assert claim(market, alice, market.usdc) == 100 * WEEK
    assert market.staking.stream(market.usdc.address) == (0, 0)
    assert market.staking.booked_rewards(market.usdc.address) == 0


def test_stream__shared_by_stake_and_time(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 1)
    stream(market, market.usdc, 400 * WEEK)
    pass_time(DAY)
    market.stake(bob, 3)
    pass_time(DAY)
    with boa.env.prank(alice):
        market.staking.start_cooldown(1)
    pass_time(DAY)
    assert market.staking.earned(alice, market.usdc.address) == 400 * DAY + 100 * DAY
    assert market.staking.earned(bob, market.usdc.address) == 300 * DAY + 400 * DAY


def test_stream__without_stake__stands_still(market: Market) -> None:
    alice = account("alice")
    stream(market, market.usdc, WEEK)
    pass_time(30 * DAY)
    assert market.staking.stream(market.usdc.address) == (WEEK, WEEK)
    market.stake(alice, 10)
    pass_time(DAY)
    with boa.env.prank(alice):
        market.staking.start_cooldown(10)
    pass_time(30 * DAY)
    assert market.staking.stream(market.usdc.address) == (WEEK - DAY, WEEK - DAY)
    market.stake(alice, 10)
    pass_time(WEEK)
    assert claim(market, alice, market.usdc) == WEEK


def test_stream__while_all_stake_cools__pays_the_cooling_nothing(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    with boa.env.prank(alice):
        market.staking.start_cooldown(10)
    stream(market, market.usdc, WEEK)
    pass_time(WEEK)
    assert market.staking.earned(alice, market.usdc.address) == 0


def test_pull_fees__dust_every_six_hours__delays_nobody(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    stream(market, market.usdc, 1_000_000 * WEEK)
    for _ in range(7 * 4):
        pass_time(DAY // 4)
        stream(market, market.usdc, 1)
    released = market.staking.earned(alice, market.usdc.address)
    assert released >= 1_000_000 * WEEK * 9_999 // 10_000
    assert market.staking.stream(market.usdc.address)[0] <= 1_000_000 * WEEK // 10_000


def test_pull_fees__into_a_running_stream__weighs_the_remaining_time(market: Market) -> None:
    market.stake(account("alice"), 10)
    stream(market, market.usdc, 2 * WEEK)
    pass_time(WEEK // 2)
    stream(market, market.usdc, WEEK)
    left, seconds_left = market.staking.stream(market.usdc.address)
    assert (left, seconds_left) == (2 * WEEK, (WEEK // 2 + WEEK) // 2)


def test_claim__of_odd_amounts__never_pays_more_than_came_in(market: Market) -> None:
    people = [account(f"staker {number}") for number in range(7)]
    for number, who in enumerate(people):
        market.stake(who, 3**number)
    paid = received = 0
    for amount in (1, 10, 1_000_003):
        received += stream(market, market.usdc, amount)
        for seconds in (1, 59, 3_601, DAY, 2 * WEEK):
            pass_time(seconds)
            paid += sum(claim(market, who, market.usdc) for who in people)
            assert paid == sum(market.usdc.balanceOf(who) for who in people)
            assert paid + market.staking.booked_rewards(market.usdc.address) == received
    assert 1_000_014 - 7 <= paid <= 1_000_014


def test_claim__in_many_steps__pays_as_much_as_in_one(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 7)
    market.stake(bob, 7)
    stream(market, market.usdc, 1_001)
    total = 0
    for _ in range(100):
        pass_time(WEEK // 100)
        total += claim(market, alice, market.usdc)
    pass_time(WEEK)
    total += claim(market, alice, market.usdc)
    assert total == claim(market, bob, market.usdc) == 500


def test_claim__of_claw__never_touches_stake(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 1_024)
    market.stake(bob, 1_024)
    stream(market, market.claw, WEEK)
    pass_time(2 * WEEK)
    assert claim(market, alice, market.claw) == claim(market, bob, market.claw) == WEEK // 2
    assert claim(market, alice, market.claw) == 0
    assert market.claw.balanceOf(market.staking.address) == market.staking.total_active() == 2_048


@pytest.mark.parametrize("to", ["staking", "zero"])
def test_claim__to_a_dead_end__reverts_and_keeps_the_reward(market: Market, to: str) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    stream(market, market.usdc, WEEK)
    pass_time(WEEK)
    reason = "staking: receiver is this contract" if to == "staking" else "erc20: transfer to the zero address"
    with boa.env.prank(alice), boa.reverts(reason):
        market.staking.claim(market.usdc.address, market.staking.address if to == "staking" else ZERO)
    assert claim(market, alice, market.usdc) == WEEK


def test_claim__logs_account_token_receiver_amount(market: Market) -> None:
    alice, receiver = account("alice"), account("receiver")
    market.stake(alice, 10)
    stream(market, market.usdc, WEEK)
    pass_time(WEEK)
    with boa.env.prank(alice):
        market.staking.claim(market.usdc.address, receiver)
    assert events(market.staking, "RewardClaimed") == [(alice, market.usdc.address, receiver, WEEK)]


def test_claim__of_a_token_never_streamed__pays_nothing(market: Market) -> None:
    assert claim(market, account("alice"), market.usdc) == 0
    assert claim(market, account("alice"), market.anchor) == 0


def test_slash__of_a_staker__leaves_what_it_earned(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 10)
    market.stake(bob, 10)
    stream(market, market.usdc, 19 * WEEK)
    pass_time(DAY)
    with boa.env.prank(market.arbitration):
        market.staking.slash(b"\x01" * 32, alice, 1_000, False, ZERO, 0)
    pass_time(DAY)
    assert market.staking.earned(alice, market.usdc.address) == 19 * DAY // 2 + 9 * DAY
    assert market.staking.earned(bob, market.usdc.address) == 19 * DAY // 2 + 10 * DAY


def eight_tokens(market: Market) -> list[Any]:
    """As many tokens as can ever be listed."""
    return [market.usdc, market.claw] + [weird_token(market, "NoReturnToken") for _ in range(6)]


def test_pull_fees__of_every_token_that_can_be_listed__streams_it(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    tokens = eight_tokens(market)
    for token in tokens:
        stream(market, token, WEEK)
    with boa.reverts("params: too many tokens"):
        weird_token(market, "NoReturnToken")
    pass_time(WEEK)
    assert [claim(market, alice, token) for token in tokens] == [WEEK] * 8


def test_exit__with_eight_reward_tokens__costs_bounded_gas(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 10)
    market.stake(bob, 10)
    for token in eight_tokens(market):
        stream(market, token, WEEK)
    pass_time(DAY)
    with boa.env.prank(alice):
        market.staking.start_cooldown(10)
        assert market.staking._computation.get_gas_used() < 1_000_000
        pass_time(21 * DAY)
        assert market.staking.withdraw(alice) == 10
        assert market.staking._computation.get_gas_used() < 100_000


def test_pull_fees__of_an_absurd_amount__reverts_and_blocks_no_exit(market: Market) -> None:
    alice = account("alice")
    token = weird_token(market, "NoReturnToken")
    market.stake(alice, 1)
    stream(market, token, CAP)
    credit_stakers(market, token, 1)
    with boa.reverts("rewards: amount too large"):
        market.staking.pull_fees(token.address)
    pass_time(WEEK)
    market.stake(alice, 10**9 * CLAW // 2)
    pass_time(WEEK)
    with boa.env.prank(alice):
        market.staking.start_cooldown(10**9 * CLAW // 2 + 1)
        pass_time(21 * DAY)
        market.staking.withdraw(alice)
    assert claim(market, alice, token) == CAP


def test_claim__of_a_token_that_returns_nothing__works(market: Market) -> None:
    alice, token = account("alice"), weird_token(market, "NoReturnToken")
    market.stake(alice, 10)
    stream(market, token, WEEK)
    pass_time(WEEK)
    assert claim(market, alice, token) == WEEK == token.balanceOf(alice)


@pytest.mark.parametrize("name", WEIRD)
def test_exit__with_a_weird_reward_token__is_not_blocked(market: Market, name: str) -> None:
    alice, token = account("alice"), weird_token(market, name)
    market.stake(alice, 1_024)
    stream(market, token, WEEK)
    stream(market, market.usdc, WEEK)
    pass_time(DAY)
    turn(token, name, market)
    market.stake(alice, 5)
    with boa.env.prank(alice):
        market.staking.start_cooldown(1_029)
        market.staking.delegate(account("bob"))
    with boa.env.prank(market.arbitration):
        market.staking.slash(b"\x01" * 32, alice, 1_000, False, account("filer"), 1_000)
    assert claim(market, alice, market.usdc) == DAY
    pass_time(21 * DAY)
    with boa.env.prank(alice):
        assert market.staking.withdraw(alice) == 927


@pytest.mark.parametrize("name", ["FalseReturnToken", "RevertingToken", "BlacklistToken", "ReentrantToken"])
def test_claim__of_a_broken_token__reverts_and_keeps_the_reward(market: Market, name: str) -> None:
    alice, token = account("alice"), weird_token(market, name)
    market.stake(alice, 1_024)
    stream(market, token, WEEK)
    pass_time(WEEK)
    turn(token, name, market)
    with boa.env.prank(alice), boa.reverts():
        market.staking.claim(token.address, alice)
    assert market.staking.earned(alice, token.address) == WEEK
    assert market.staking.booked_rewards(token.address) == WEEK


def test_claim__to_a_blacklisted_receiver__can_go_elsewhere(market: Market) -> None:
    alice, token = account("alice"), weird_token(market, "BlacklistToken")
    market.stake(alice, 1_024)
    stream(market, token, WEEK)
    pass_time(WEEK)
    token.set_blacklisted(alice, True)
    with boa.env.prank(alice):
        with boa.reverts("mock: account is blacklisted"):
            market.staking.claim(token.address, alice)
        assert market.staking.claim(token.address, account("elsewhere")) == WEEK


def test_pull_fees__of_a_token_that_began_to_take_a_fee__books_what_arrived(market: Market) -> None:
    alice, token = account("alice"), weird_token(market, "FeeOnTransferToken")
    market.stake(alice, 1_024)
    credit_stakers(market, token, 1_000)
    token.set_fee(100)
    assert market.staking.pull_fees(token.address) == 990
    assert market.staking.booked_rewards(token.address) == token.balanceOf(market.staking.address) == 990


def test_pull_fees__of_a_token_that_takes_all__adds_nothing(market: Market) -> None:
    token = weird_token(market, "FeeOnTransferToken")
    credit_stakers(market, token, 1_000)
    token.set_fee(10_000)
    assert market.staking.pull_fees(token.address) == 0
    assert market.staking.reward_tokens() == []


@pytest.mark.parametrize("action", ["claim", "pull_fees", "stake", "start_cooldown", "withdraw", "slash"])
@pytest.mark.parametrize("entry", ["claim", "pull_fees"])
def test_reentry__from_a_reward_token__is_refused(market: Market, entry: str, action: str) -> None:
    alice, token = account("alice"), weird_token(market, "ReentrantToken")
    market.stake(alice, 1_024)
    stream(market, token, WEEK)
    pass_time(WEEK)
    credit_stakers(market, token, 5)
    staking = market.staking
    call = {
        "claim": lambda: staking.claim.prepare_calldata(token.address, token.address),
        "pull_fees": lambda: staking.pull_fees.prepare_calldata(market.usdc.address),
        "stake": lambda: staking.stake.prepare_calldata(1),
        "start_cooldown": lambda: staking.start_cooldown.prepare_calldata(1),
        "withdraw": lambda: staking.withdraw.prepare_calldata(alice),
        "slash": lambda: staking.slash.prepare_calldata(b"\x01" * 32, alice, 1, False, ZERO, 0),
    }[action]()
    _arm(market, token, action)
    token.set_callback(staking.address, call, False)
    if entry == "claim":
        assert claim(market, alice, token) == WEEK
    else:
        assert staking.pull_fees(token.address) == 5
    assert (token.successes(), token.failures()) == (0, 1)
    token.set_callback(ZERO, b"", False)
    result = boa.env.execute_code(staking.address, sender=token.address, data=call)
    assert result.is_error == (action == "slash"), "the same call must work outside, or the test shows nothing"


def test_reward_tokens__lists_each_once_in_order(market: Market) -> None:
    other = deployer(CONTRACTS, "ClawToken").deploy(sender=market.admin)
    with boa.env.prank(market.admin):
        market.params.list_token(other.address, True)
    for token in (other, market.usdc, other, market.claw):
        stream(market, token, 10)
    assert market.staking.reward_tokens() == [other.address, market.usdc.address, market.claw.address]


def test_earned__grows_with_every_second_of_a_stream(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 16)
    stream(market, market.usdc, WEEK)
    seen = []
    for _ in range(5):
        seen.append(market.staking.earned(alice, market.usdc.address))
        pass_time(1)
    assert [later - earlier for earlier, later in pairwise(seen)] == [1, 1, 1, 1]


def _arm(market: Market, token: Any, action: str) -> None:
    """Give the token itself what the call needs, so that only the lock can refuse it."""
    if action in ("start_cooldown", "withdraw", "stake"):
        market.give(market.claw, str(token.address), 10)
    if action in ("start_cooldown", "withdraw"):
        with boa.env.prank(token.address):
            market.staking.stake(5)
            if action == "withdraw":
                market.staking.start_cooldown(5)
                pass_time(21 * DAY)
