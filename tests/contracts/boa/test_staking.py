"""Staking, one function after the other: stake, cooldown, withdrawal, slashes."""

from __future__ import annotations

from typing import Any

import boa
import pytest

from protocol.signing import Signer
from tests.contracts.boa.chain import ZERO, account, events, pass_time
from tests.contracts.boa.market import CLAW, DAY, Market, with_offer

MIN_STAKE = 10_000 * CLAW
COOLDOWN = 21 * DAY
FACT = b"\x01" * 32


def slash(market: Market, fact: bytes, who: str, bps: int = 1_000, **options: Any) -> int:
    """A slash by Arbitration, without a filer unless given."""
    with boa.env.prank(market.arbitration):
        return int(
            market.staking.slash(
                fact,
                who,
                bps,
                options.get("is_contradiction", False),
                options.get("filer", ZERO),
                options.get("filer_bps", 0),
            )
        )


def test_deployment__names_every_contract_it_trusts(market: Market) -> None:
    staking = market.staking
    assert staking.claw() == market.claw.address
    assert staking.params() == market.params.address
    assert staking.registry() == market.registry.address
    assert staking.escrow() == market.escrow.address
    assert staking.arbitration() == market.arbitration


def test_stake__with_an_allowance__counts_at_once(market: Market) -> None:
    alice = account("alice")
    market.give(market.claw, alice, 5)
    with boa.env.prank(alice):
        market.staking.stake(3)
        assert events(market.staking, "Staked") == [(alice, 3, 3)]
        market.staking.stake(2)
        assert events(market.staking, "Staked") == [(alice, 2, 5)]
    assert market.staking.active_stake(alice) == market.staking.total_active() == 5
    assert market.staking.getVotes(alice) == 5
    assert market.claw.balanceOf(market.staking.address) == 5


def test_stake__of_nothing__reverts(market: Market) -> None:
    with boa.env.prank(account("alice")), boa.reverts("staking: amount is zero"):
        market.staking.stake(0)


def test_stake__above_the_allowance__reverts(market: Market) -> None:
    with boa.env.prank(market.admin), boa.reverts("erc20: insufficient allowance"):
        market.staking.stake(1)


def test_start_cooldown__of_a_part__stops_its_votes_and_starts_the_clock(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    with boa.env.prank(alice):
        market.staking.start_cooldown(4)
    until = market.now() + COOLDOWN
    assert events(market.staking, "CooldownStarted") == [(alice, 4, 6, 4, until)]
    assert market.staking.cooling(alice) == (4, until)
    assert market.staking.active_stake(alice) == market.staking.getVotes(alice) == market.staking.total_active() == 6
    assert market.staking.total_cooling() == 4


def test_start_cooldown__again__restarts_the_clock_for_all(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    with boa.env.prank(alice):
        market.staking.start_cooldown(4)
        pass_time(COOLDOWN)
        market.staking.start_cooldown(1)
        assert market.staking.cooling(alice) == (5, market.now() + COOLDOWN)
        with boa.reverts("staking: cooldown not over"):
            market.staking.withdraw(alice)


def test_start_cooldown__after_the_parameter_fell__does_not_shorten_the_wait(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    with boa.env.prank(market.admin):
        market.params.set(4, 28 * DAY)
    pass_time(7 * DAY - 1)
    with boa.env.prank(alice):
        market.staking.start_cooldown(4)
    until = market.now() + 28 * DAY
    pass_time(1)
    with boa.env.prank(market.admin):
        market.params.set(4, 21 * DAY)
    with boa.env.prank(alice):
        market.staking.start_cooldown(1)
    assert market.staking.cooling(alice) == (5, until)


def test_start_cooldown__after_the_parameter_rose__keeps_what_runs(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    with boa.env.prank(alice):
        market.staking.start_cooldown(10)
    with boa.env.prank(market.admin):
        market.params.set(4, 28 * DAY)
    pass_time(COOLDOWN)
    with boa.env.prank(alice):
        assert market.staking.withdraw(alice) == 10


@pytest.mark.parametrize("amount", [0, 11])
def test_start_cooldown__of_nothing_or_too_much__reverts(market: Market, amount: int) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    reason = "staking: amount is zero" if amount == 0 else "staking: amount above active stake"
    with boa.env.prank(alice), boa.reverts(reason):
        market.staking.start_cooldown(amount)


def test_start_cooldown__down_to_the_minimum__keeps_the_provider(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    market.stake(owner, 1)
    with boa.env.prank(owner):
        market.staking.start_cooldown(1)
    assert market.registry.is_registered(provider)
    assert market.escrow.leases_end(provider) == 0


def test_start_cooldown__below_the_minimum__deregisters_and_ends_leases(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    consumer, session = account("consumer"), Signer(b"\x07" * 32)
    market.deposit(consumer, market.usdc, 1_000)
    request = market.request(consumer, provider, session, 1_000, close_delay=6 * DAY)
    lease_id = market.open(request)
    with boa.env.prank(owner):
        market.staking.start_cooldown(1)
    assert not market.registry.is_registered(provider)
    assert market.escrow.lease(lease_id).closes_at == market.now() + 6 * DAY


def test_start_cooldown__of_another_account__leaves_the_provider(market: Market) -> None:
    _, provider, _ = with_offer(market)
    alice = account("alice")
    market.stake(alice, 10)
    with boa.env.prank(alice):
        market.staking.start_cooldown(10)
    assert market.registry.is_registered(provider)


def test_withdraw__when_the_cooldown_ends__pays_all_of_it(market: Market) -> None:
    alice, receiver = account("alice"), account("receiver")
    market.stake(alice, 10)
    with boa.env.prank(alice):
        market.staking.start_cooldown(4)
        pass_time(COOLDOWN - 1)
        with boa.reverts("staking: cooldown not over"):
            market.staking.withdraw(receiver)
        pass_time(1)
        assert market.staking.withdraw(receiver) == 4
        assert events(market.staking, "Withdrawn") == [(alice, receiver, 4)]
        with boa.reverts("staking: nothing in cooldown"):
            market.staking.withdraw(receiver)
    assert market.claw.balanceOf(receiver) == 4
    assert market.staking.cooling(alice)[0] == market.staking.total_cooling() == 0
    assert market.staking.active_stake(alice) == 6


@pytest.mark.parametrize("to", ["staking", "zero"])
def test_withdraw__to_a_dead_end__reverts_and_keeps_the_stake(market: Market, to: str) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    with boa.env.prank(alice):
        market.staking.start_cooldown(10)
        pass_time(COOLDOWN)
        reason = "staking: receiver is this contract" if to == "staking" else "erc20: transfer to the zero address"
        with boa.reverts(reason):
            market.staking.withdraw(market.staking.address if to == "staking" else ZERO)
        assert market.staking.withdraw(alice) == 10


@pytest.mark.parametrize("who", ["admin", "stranger", "self", "registry"])
def test_slash__by_anybody_but_arbitration__reverts(market: Market, who: str) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    caller = {"admin": market.admin, "stranger": account("x"), "self": alice, "registry": market.registry.address}[who]
    with boa.env.prank(caller), boa.reverts("staking: caller is not Arbitration"):
        market.staking.slash(FACT, alice, 100, False, ZERO, 0)


def test_slash__without_a_filer__burns_all_of_it(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 1_000)
    supply = market.claw.totalSupply()
    assert slash(market, FACT, alice) == 100
    assert events(market.staking, "Slashed") == [(FACT, alice, ZERO, 100, 100, 0, 0, 100)]
    assert market.claw.totalSupply() == supply - 100
    assert market.claw.balanceOf(market.staking.address) == 900
    assert market.staking.active_stake(alice) == market.staking.getVotes(alice) == market.staking.total_active() == 900
    assert market.staking.slashed_today(alice) == 100
    assert market.staking.is_slashed(FACT)


def test_slash__with_stake_in_cooldown__takes_from_both_pro_rata(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 1_000)
    with boa.env.prank(alice):
        market.staking.start_cooldown(300)
    until = market.staking.cooling(alice)[1]
    assert slash(market, FACT, alice) == 100
    assert market.staking.active_stake(alice) == 630
    assert market.staking.cooling(alice) == (270, until)
    assert (market.staking.total_active(), market.staking.total_cooling()) == (630, 270)


def test_slash__with_all_in_cooldown_and_due__still_takes(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 1_000)
    with boa.env.prank(alice):
        market.staking.start_cooldown(1_000)
    pass_time(2 * COOLDOWN)
    assert slash(market, FACT, alice) == 100
    with boa.env.prank(alice):
        assert market.staking.withdraw(alice) == 900


def test_slash__uneven__rounds_against_nobody_else(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 7)
    market.stake(bob, 5)
    with boa.env.prank(alice):
        market.staking.start_cooldown(3)
    assert slash(market, FACT, alice, 5_000, is_contradiction=True) == 3
    assert market.staking.active_stake(alice) + market.staking.cooling(alice)[0] == 4
    assert market.claw.balanceOf(market.staking.address) == 4 + 5
    assert market.staking.active_stake(bob) == 5


@pytest.mark.parametrize(
    ("bps", "is_contradiction", "slashed"),
    [(1, False, 1), (1_000, False, 1_000), (10_000, False, 1_000), (10_000, True, 5_000), (2**256 - 1, True, 5_000)],
)
def test_slash__above_its_cap__is_cut(market: Market, bps: int, is_contradiction: bool, slashed: int) -> None:
    alice = account("alice")
    market.stake(alice, 10_000)
    assert slash(market, FACT, alice, bps, is_contradiction=is_contradiction) == slashed


def test_slash__of_one_fact_again__reverts_for_anybody(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 1_000)
    market.stake(bob, 1_000)
    slash(market, FACT, alice)
    for who in (alice, bob):
        with boa.reverts("staking: fact already slashed"):
            slash(market, FACT, who)


def test_slash__cut_to_nothing_by_the_day__still_uses_up_the_fact(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10_000)
    assert slash(market, b"\x01" * 32, alice, 5_000, is_contradiction=True) == 5_000
    assert slash(market, b"\x02" * 32, alice, 5_000, is_contradiction=True) == 0
    assert events(market.staking, "Slashed") == [(b"\x02" * 32, alice, ZERO, 0, 0, 0, 0, 0)]
    pass_time(DAY)
    with boa.reverts("staking: fact already slashed"):
        slash(market, b"\x02" * 32, alice, 5_000, is_contradiction=True)
    assert slash(market, b"\x03" * 32, alice, 5_000, is_contradiction=True) == 2_500


def test_slash__many_times_a_day__stops_at_the_days_cap(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10_000)
    taken = [slash(market, bytes([number]) * 32, alice) for number in range(1, 12)]
    assert taken[:3] == [1_000, 900, 810]
    assert sum(taken) == 5_000
    assert taken[-1] == 0
    assert market.staking.slashed_today(alice) == 5_000


def test_slash__of_one_account__leaves_the_others_days_alone(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 10_000)
    market.stake(bob, 10_000)
    slash(market, b"\x01" * 32, alice, 5_000, is_contradiction=True)
    assert slash(market, b"\x02" * 32, bob, 5_000, is_contradiction=True) == 5_000


def test_slash__of_an_account_without_stake__takes_nothing_and_uses_up_the_fact(market: Market) -> None:
    assert slash(market, FACT, account("nobody"), filer=account("filer"), filer_bps=1_000) == 0
    assert market.staking.is_slashed(FACT)


@pytest.mark.parametrize(("filer_bps", "share"), [(0, 0), (777, 77), (1_000, 100), (10_000, 100)])
def test_slash__with_a_filer__books_at_most_a_tenth_for_it(market: Market, filer_bps: int, share: int) -> None:
    alice, filer = account("alice"), account("filer")
    market.stake(alice, 10_000)
    assert slash(market, FACT, alice, filer=filer, filer_bps=filer_bps) == 1_000
    assert events(market.staking, "Slashed") == [(FACT, alice, filer, 1_000, 1_000, 0, share, 1_000 - share)]
    assert market.staking.earned(filer, market.claw.address) == share
    assert market.staking.booked_rewards(market.claw.address) == share
    with boa.env.prank(filer):
        assert market.staking.claim(market.claw.address, filer) == share
    assert market.claw.balanceOf(filer) == share
    assert market.claw.balanceOf(market.staking.address) == market.staking.total_active() == 9_000


def test_slash__below_the_minimum__leaves_the_provider_but_no_new_leases(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    slash(market, FACT, owner)
    consumer = account("consumer")
    market.deposit(consumer, market.usdc, 1_000)
    assert market.registry.is_registered(provider)
    with boa.reverts("leases: provider stake too low"):
        market.open(market.request(consumer, provider, Signer(b"\x07" * 32), 1_000))
