"""The staking machine passes on the contracts and finds every mutation of them."""

from __future__ import annotations

import pytest

from tests.contracts.boa import market
from tests.contracts.boa.mutation import Mutation, assert_machine_finds, mutated, run_machine
from tests.contracts.boa.mutations import STAKING
from tests.contracts.boa.staking_machine import StakingMachine


def test_staking__any_sequence__keeps_every_invariant() -> None:
    run_machine(StakingMachine)


@pytest.mark.parametrize("mutation", STAKING, ids=lambda mutation: mutation.name)
def test_staking__mutated__is_found(mutation: Mutation) -> None:
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
