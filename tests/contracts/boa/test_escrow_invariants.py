"""The escrow machine passes on the contracts, and on every mutation of them a few of its own rules break an invariant.

The rules that expose a mutation are named, so that finding it takes seconds; `make soak` searches for them at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.contracts.boa.escrow_machine import START, EscrowMachine
from tests.contracts.boa.escrow_mutations import ESCROW
from tests.contracts.boa.market import DAY
from tests.contracts.boa.mutation import Mutation, assert_machine_finds, assert_steps_expose, live, run_machine

Steps = Callable[[EscrowMachine], None]
ORDER = random.Random(0)


def nothing_but_the_start(_: EscrowMachine) -> None:
    """The first deposits, leases and settlements are enough."""


def release_after_closing(machine: EscrowMachine) -> None:
    machine.close(0, "provider")
    machine.release(0)
    machine.release(0)


def earn_on_the_same_slot(machine: EscrowMachine) -> None:
    machine.time_passes(8 * DAY)
    machine.settle(0, [500], ORDER)


def refund_twice_a_day(machine: EscrowMachine) -> None:
    machine.refund(0, START)
    machine.refund(6, START)


def settle_in_parts(machine: EscrowMachine) -> None:
    for milli in range(101, 1_000, 101):
        machine.settle(0, [milli], ORDER)


STEPS: dict[str, Steps] = {
    "deposit_credits_twice": nothing_but_the_start,
    "fee_is_not_taken_from_the_provider": nothing_but_the_start,
    "release_forgets_what_was_settled": release_after_closing,
    "release_twice": release_after_closing,
    "reused_ring_word_is_lost": earn_on_the_same_slot,
    "voucher_above_the_deposit": lambda machine: machine.settle(0, [1_200], ORDER),
    "a_lower_voucher_blocks_the_batch": lambda machine: machine.settle(0, [50], ORDER),
    "any_key_signs_vouchers": nothing_but_the_start,
    "settles_after_closing": lambda machine: machine.close(1, "provider"),
    "deregistration_ends_no_lease": lambda machine: machine.deregister(1),
    "closing_ignores_the_delay": lambda machine: machine.close(1, "close"),
    "hold_of_today_judges_old_days": lambda machine: machine.change_parameters(1, 77, 0),
    "freeze_takes_more_than_was_paid": lambda machine: machine.freeze(0, START, 0, None),
    "fees_are_returned_too": lambda machine: machine.freeze(0, START, 0, None),
    "no_daily_cap_on_refunds": refund_twice_a_day,
    "pot_goes_back_as_free": lambda machine: machine.freeze(0, START, 0, 0),
    "freeze_reaches_matured_earnings": lambda machine: machine.freeze(0, START - START % 1_000, 5, None),
    "fee_depends_on_the_split": settle_in_parts,
}


def test_escrow__any_sequence__keeps_every_invariant() -> None:
    run_machine(EscrowMachine)


@pytest.mark.parametrize("name", STEPS)
def test_escrow__steps_that_expose_a_mutation__break_nothing_unmutated(name: str) -> None:
    live(EscrowMachine, STEPS[name])


@pytest.mark.parametrize("mutation", ESCROW, ids=lambda mutation: mutation.name)
def test_escrow__mutated__breaks_its_invariant(mutation: Mutation) -> None:
    assert_steps_expose(EscrowMachine, mutation, STEPS[mutation.name])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutation", ESCROW, ids=lambda mutation: mutation.name)
def test_escrow__mutated__is_found_by_search(mutation: Mutation) -> None:
    assert_machine_finds(EscrowMachine, mutation)
