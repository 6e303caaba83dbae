"""The state machines for minutes, from seeds that differ each time; a failure prints how to repeat it."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings

from tests.contracts.boa.escrow_machine import EscrowMachine
from tests.contracts.boa.mutation import Machine, run_machine
from tests.contracts.boa.staking_machine import StakingMachine


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [EscrowMachine, StakingMachine], ids=lambda machine: machine.__name__)
def test_machine__hundreds_of_lives__keeps_every_invariant(machine: type[Machine]) -> None:
    longer = settings(
        machine.run_settings,
        max_examples=10 * machine.run_settings.max_examples,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        print_blob=True,
    )
    run_machine(type(f"Long{machine.__name__}", (machine,), {"run_settings": longer}))
