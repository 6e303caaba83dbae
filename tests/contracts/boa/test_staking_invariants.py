"""The staking machine passes on the contracts, and on every mutation of them a few of its own rules break an invariant.

The rules that expose a mutation are named, so that finding it takes seconds; `make soak` searches for them at random.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contracts.boa import market
from tests.contracts.boa.market import DAY
from tests.contracts.boa.mutation import (
    Mutation,
    assert_machine_finds,
    assert_steps_expose,
    live,
    mutated,
    run_machine,
)
from tests.contracts.boa.mutations import STAKING
from tests.contracts.boa.staking_machine import StakingMachine
from tests.contracts.boa.staking_model import BPS, MIN_STAKE

Steps = Callable[[StakingMachine], None]
HALF = BPS // 2
FACT = bytes(32)


def cool_and_withdraw(machine: StakingMachine) -> None:
    machine.start_cooldown(0, HALF)
    machine.wait_out_the_cooldown(0)


def cool_across_a_longer_and_a_shorter_cooldown(machine: StakingMachine) -> None:
    for _ in range(2):
        machine.cool_across_a_change_of_the_cooldown(0)
        machine.pass_time(8 * DAY)


def slash_while_cooling(machine: StakingMachine) -> None:
    machine.start_cooldown(0, HALF)
    machine.slash(0, FACT, 1, 500, False, None, 0)


def slash_beyond_the_cap_of_the_day(machine: StakingMachine) -> None:
    machine.slash(0, FACT, 3, BPS, True, None, 0)


def cool_with_rewards_unclaimed(machine: StakingMachine) -> None:
    machine.pull_fees(0, MIN_STAKE)
    machine.pass_time(DAY)
    machine.start_cooldown(0, HALF)


def stake_at_three_times(machine: StakingMachine) -> None:
    for _ in range(3):
        machine.pass_time(DAY)
        machine.stake(0, MIN_STAKE)
    machine.pass_time(DAY)


def stream_for_a_day(machine: StakingMachine) -> None:
    machine.pull_fees(0, MIN_STAKE)
    machine.pass_time(DAY)
    machine.pull_fees(0, 1)


def stream_of_a_few_units(machine: StakingMachine) -> None:
    for _ in range(8):
        machine.pull_fees(0, 10)
        machine.pass_time(DAY)
    machine.pull_fees(0, 1)


def come_back_to_a_stream_without_stake(machine: StakingMachine) -> None:
    machine.everybody_leaves_and_one_comes_back(3, DAY)
    machine.pull_fees(1, 1)


STEPS: dict[str, Steps] = {
    "withdraw_keeps_the_bucket": cool_and_withdraw,
    "the_cooldown_ends_a_day_early": cool_and_withdraw,
    "a_new_start_may_shorten_the_cooldown": cool_across_a_longer_and_a_shorter_cooldown,
    "cooling_stake_escapes_slashes": slash_while_cooling,
    "cooling_stake_keeps_its_votes": lambda machine: machine.start_cooldown(0, HALF),
    "cooling_loses_what_was_earned": cool_with_rewards_unclaimed,
    "total_active_drifts": lambda machine: machine.start_cooldown(0, HALF),
    "half_the_minimum_stays_registered": lambda machine: machine.start_cooldown(0, BPS // 100),
    "past_points_are_overwritten": stake_at_three_times,
    "the_present_is_open_to_lookups": lambda machine: machine.pass_time(DAY),
    "a_lookup_takes_the_next_point": stake_at_three_times,
    "abstaining_keeps_the_votes": lambda machine: machine.delegate(0, None),
    "a_fact_capped_to_zero_may_come_again": slash_beyond_the_cap_of_the_day,
    "the_day_cap_forgets_todays_slashes": slash_beyond_the_cap_of_the_day,
    "the_filers_share_is_burned_too": lambda machine: machine.slash(0, FACT, 1, BPS, False, 1, 1_000),
    "the_filers_share_has_no_cap": lambda machine: machine.slash(0, FACT, 1, BPS, False, 1, BPS),
    "released_units_stay_in_the_stream": stream_for_a_day,
    "the_stream_runs_dry_without_stake": come_back_to_a_stream_without_stake,
    "dust_restarts_the_stream": stream_for_a_day,
    "shares_are_rounded_up": stream_of_a_few_units,
    "paid_rewards_stay_booked": lambda machine: machine.earn_claim_cool(0, DAY),
    "anyone_slashes": lambda machine: machine.slash(0, FACT, 1, 500, False, None, 0),
}


def test_staking__any_sequence__keeps_every_invariant() -> None:
    run_machine(StakingMachine)


@pytest.mark.parametrize("name", STEPS)
def test_staking__steps_that_expose_a_mutation__break_nothing_unmutated(name: str) -> None:
    live(StakingMachine, STEPS[name])


@pytest.mark.parametrize("mutation", STAKING, ids=lambda mutation: mutation.name)
def test_staking__mutated__breaks_its_invariant(mutation: Mutation) -> None:
    assert_steps_expose(StakingMachine, mutation, STEPS[mutation.name])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutation", STAKING, ids=lambda mutation: mutation.name)
def test_staking__mutated__is_found_by_search(mutation: Mutation) -> None:
    assert_machine_finds(StakingMachine, mutation)


def test_mutated__without_its_text__says_so() -> None:
    stale = Mutation(name="stale", file="Staking.vy", old="no such line", new="", breaks="votes")
    with pytest.raises(ValueError, match="stale: old text occurs 0 times"), mutated(stale):
        pass


def test_mutated__of_a_module__reaches_the_contracts_that_import_it() -> None:
    mutation = next(mutation for mutation in STAKING if mutation.file == "modules/votes.vy")
    with mutated(mutation) as tree:
        codes = {name: market.deployer(tree, name).compiler_data.bytecode for name in ("Staking", "Registry")}
    assert codes["Staking"] != market.deployer(market.CONTRACTS, "Staking").compiler_data.bytecode
    assert codes["Registry"] == market.deployer(market.CONTRACTS, "Registry").compiler_data.bytecode
