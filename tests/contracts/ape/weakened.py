"""Copies of contracts with one protection taken out, to show that the attacks in the tests would work without it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ape.contracts import ContractContainer
from ethpm_types import ContractType

CONTRACTS = Path(__file__).resolve().parents[3] / "contracts"
GUARD = "# pragma nonreentrancy on"
NO_GUARD = "# pragma nonreentrancy off"

Replacement = tuple[str, str, str]
"""(file inside contracts/, text that occurs exactly once in it, what stands there instead)."""

DEBIT_FIRST = "    self._debit(msg.sender, token, amount)\n    log Withdrawn"
PAY = '    assert extcall IERC20(token).transfer(to, amount, default_return_value=True), "escrow: transfer failed"\n'
DEBIT_AFTER_PAYING: tuple[Replacement, ...] = (
    (
        "modules/escrow.vy",
        DEBIT_FIRST,
        "    left: uint256 = self.accounts[msg.sender][token] - amount\n    log Withdrawn",
    ),
    ("modules/escrow.vy", PAY, PAY + "    self.accounts[msg.sender][token] = left\n"),
)
"""Pays before it books, from a balance read before: the classical mistake that a guard makes harmless."""

UNGUARDED: tuple[Replacement, ...] = tuple(
    (file, GUARD, NO_GUARD)
    for file in ("LeaseEscrow.vy", *(f"modules/{name}.vy" for name in ("escrow", "leases", "settlement")))
)


def weakened_escrow(replacements: Sequence[Replacement], folder: Path) -> ContractContainer:
    """LeaseEscrow compiled from a changed copy of the sources in `folder`."""
    sources = folder / "contracts"
    shutil.copytree(CONTRACTS, sources)
    for file, old, new in replacements:
        path = sources / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} holds {text.count(old)} times: {old}"
        path.write_text(text.replace(old, new))
    command = ["vyper", "--evm-version", "prague", "-f", "abi,bytecode", str(sources / "LeaseEscrow.vy")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    abi, bytecode = output.strip().splitlines()
    content: dict[str, Any] = {
        "contractName": "WeakenedEscrow",
        "abi": json.loads(abi),
        "deploymentBytecode": {"bytecode": bytecode},
    }
    return ContractContainer(ContractType.model_validate(content))
