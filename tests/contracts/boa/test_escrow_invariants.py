"""The escrow machine passes on the contracts and finds every mutation of them."""

from __future__ import annotations

import pytest

from tests.contracts.boa.escrow_machine import EscrowMachine
from tests.contracts.boa.escrow_mutations import ESCROW
from tests.contracts.boa.mutation import Mutation, assert_machine_finds, run_machine


def test_escrow__any_sequence__keeps_every_invariant() -> None:
    run_machine(EscrowMachine)


@pytest.mark.parametrize("mutation", ESCROW, ids=lambda mutation: mutation.name)
def test_escrow__mutated__is_found(mutation: Mutation) -> None:
    assert_machine_finds(EscrowMachine, mutation)
