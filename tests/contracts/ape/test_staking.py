"""Staking on a real chain: stake, cooldown, withdrawal, slashes and fee rewards. Its invariants are fuzzed in boa/."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import fee_of, only_event
from tests.contracts.ape.market import CLAW, DAY, UNLIMITED, USD, ZERO_ADDRESS, Market

STAKE = 10_000 * CLAW
COOLDOWN = 21 * DAY
FACT = b"\xfa" * 32


def check_stake(market: Market, who: Any, active: int, cooling: int = 0) -> None:
    assert market.staking.active_stake(who) == active
    assert market.staking.cooling(who)[0] == cooling


def slash(
    market: Market, bps: int, *, fact: bytes = FACT, filer: Any = ZERO_ADDRESS, contradiction: bool = False
) -> Any:
    return market.staking.slash(
        fact, market.provider_owner, bps, contradiction, filer, 1_000, sender=market.arbitration
    )


@pytest.mark.state_row("S1")
def test_stake__by_anyone__earns_and_votes_at_once(market: Market, stranger: Any) -> None:
    market.stake(stranger, 5 * CLAW)
    check_stake(market, stranger, 5 * CLAW)
    assert market.staking.getVotes(stranger) == 5 * CLAW
    assert market.staking.total_active() == STAKE + 5 * CLAW


@pytest.mark.parametrize(("amount", "reason"), [(0, "staking: amount is zero"), (1, None)])
def test_stake__nothing_or_without_tokens__reverts(
    market: Market, stranger: Any, amount: int, reason: str | None
) -> None:
    market.claw.approve(market.staking, UNLIMITED, sender=stranger)
    with ape.reverts(reason):
        market.staking.stake(amount, sender=stranger)


@pytest.mark.state_row("S2")
def test_start_cooldown__above_the_minimum__keeps_the_provider(market: Market, provider_owner: Any) -> None:
    market.stake(provider_owner, 100 * CLAW)
    receipt = market.staking.start_cooldown(100 * CLAW, sender=provider_owner)
    check_stake(market, provider_owner, STAKE, 100 * CLAW)
    assert market.staking.cooling(provider_owner)[1] == receipt.timestamp + COOLDOWN
    assert market.registry.is_registered(market.provider)


@pytest.mark.state_row("S3")
def test_start_cooldown__below_the_minimum__deregisters(market: Market, provider_owner: Any) -> None:
    receipt = market.staking.start_cooldown(1, sender=provider_owner)
    assert not market.registry.is_registered(market.provider)
    assert market.registry.provider_of(provider_owner) == 0
    assert market.escrow.leases_end(market.provider) == receipt.timestamp + 6 * DAY


@pytest.mark.state_row("S4")
def test_start_cooldown__again__restarts_the_clock_for_all(market: Market, provider_owner: Any) -> None:
    market.staking.start_cooldown(CLAW, sender=provider_owner)
    market.travel(20 * DAY)
    receipt = market.staking.start_cooldown(CLAW, sender=provider_owner)
    assert tuple(market.staking.cooling(provider_owner)) == (2 * CLAW, receipt.timestamp + COOLDOWN)


def test_start_cooldown__more_than_active__reverts(market: Market, provider_owner: Any) -> None:
    with ape.reverts("staking: amount above active stake"):
        market.staking.start_cooldown(STAKE + 1, sender=provider_owner)


@pytest.mark.state_row("S5", "S6")
def test_withdraw__at_the_end_of_the_cooldown_and_before__pays_only_then(market: Market, provider_owner: Any) -> None:
    market.staking.start_cooldown(STAKE, sender=provider_owner)
    until = market.staking.cooling(provider_owner)[1]
    market.travel_to(until - 10)
    with ape.reverts("staking: cooldown not over"):
        market.staking.withdraw(provider_owner, sender=provider_owner)
    market.travel_to(until)
    market.staking.withdraw(provider_owner, sender=provider_owner)
    assert market.claw.balanceOf(provider_owner) == STAKE
    check_stake(market, provider_owner, 0)


def test_withdraw__nothing_in_cooldown__reverts(market: Market, provider_owner: Any) -> None:
    with ape.reverts("staking: nothing in cooldown"):
        market.staking.withdraw(provider_owner, sender=provider_owner)


@pytest.mark.state_row("S7")
def test_slash__active_and_cooling__takes_from_both_pro_rata(market: Market, provider_owner: Any) -> None:
    market.staking.start_cooldown(STAKE // 4, sender=provider_owner)
    supply = market.claw.totalSupply()
    receipt = slash(market, 1_000)
    check_stake(market, provider_owner, STAKE * 3 // 4 * 9 // 10, STAKE // 4 * 9 // 10)
    event = only_event(receipt, market.staking.Slashed)
    assert (event.amount, event.filer_share, event.burned) == (STAKE // 10, 0, STAKE // 10)
    assert market.claw.totalSupply() == supply - STAKE // 10


@pytest.mark.state_row("S7")
def test_slash__above_every_cap__is_cut(market: Market, provider_owner: Any, stranger: Any) -> None:
    event = only_event(slash(market, 10_000, filer=stranger), market.staking.Slashed)
    assert (event.amount, event.filer_share) == (STAKE // 10, STAKE // 100)
    assert market.staking.earned(stranger, market.claw) == STAKE // 100
    event = only_event(slash(market, 10_000, fact=b"\x01" * 32, contradiction=True), market.staking.Slashed)
    assert event.amount == STAKE // 2 - STAKE // 10


@pytest.mark.state_row("S8")
def test_slash__same_fact_again__reverts(market: Market) -> None:
    slash(market, 1)
    with ape.reverts("staking: fact already slashed"):
        slash(market, 1)


@pytest.mark.state_row("S8")
def test_slash__cut_to_nothing_by_the_day__uses_the_fact_up(market: Market) -> None:
    slash(market, 10_000, contradiction=True)
    assert only_event(slash(market, 100, fact=b"\x01" * 32), market.staking.Slashed).amount == 0
    market.travel(DAY)
    with ape.reverts("staking: fact already slashed"):
        slash(market, 100, fact=b"\x01" * 32)


@pytest.mark.state_row("S9")
def test_cooling__all_of_it__earns_nothing_and_votes_for_nobody(
    market: Market, provider_owner: Any, stranger: Any
) -> None:
    market.stake(stranger, STAKE)
    market.settled_lease(40 * USD)
    market.staking.start_cooldown(STAKE, sender=provider_owner)
    market.staking.pull_fees(market.usdc, sender=stranger)
    market.travel(8 * DAY)
    assert market.staking.getVotes(provider_owner) == 0
    assert market.staking.earned(provider_owner, market.usdc) == 0
    share = fee_of(40 * USD) // 2
    assert share - 1 <= market.staking.earned(stranger, market.usdc) <= share
    market.staking.claim(market.usdc, stranger, sender=stranger)
    assert share - 1 <= market.usdc.balanceOf(stranger) <= share


def test_pull_fees__nothing_to_pull__changes_nothing(market: Market, stranger: Any) -> None:
    market.staking.pull_fees(market.usdc, sender=stranger)
    assert list(market.staking.reward_tokens()) == []
