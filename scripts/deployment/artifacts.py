"""What the compilers made: read from Ape's manifest, and its ABIs written to protocol/abi/.

python -m scripts.deployment.artifacts     write the ABIs that differ
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.chain.abi import FOLDER as ABI_FOLDER
from protocol.chain.abi import ContractAbi
from protocol.chain.exceptions import DeploymentError

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build" / "__local__.json"

CONTRACTS = (
    "ClawToken",
    "TestUSDC",
    "Params",
    "Registry",
    "Staking",
    "LeaseEscrow",
    "UsageAnchor",
    "Arbitration",
    "Lens",
)
"""Everything that is deployed, in the order of the deployer's nonces."""


@dataclass(frozen=True)
class Artifact:
    """One compiled contract. `init_code` lacks the constructor's arguments, `runtime` the immutables."""

    name: str
    source: str
    abi: list[dict[str, Any]]
    init_code: bytes
    runtime: bytes

    @property
    def constructor_inputs(self) -> list[dict[str, Any]]:
        """The constructor's parameters, empty without a constructor."""
        return next((entry["inputs"] for entry in self.abi if entry["type"] == "constructor"), [])

    def encoder(self) -> ContractAbi:
        return ContractAbi(self.name, self.abi)

    def is_runtime(self, code: bytes) -> bool:
        """Whether code on chain is this contract's: Vyper appends immutables, Solidity writes them in place."""
        if self.source.endswith(".vy"):
            return code.startswith(self.runtime)
        return len(code) == len(self.runtime)


def load_build(path: Path = BUILD) -> dict[str, Artifact]:
    """The contracts to deploy, by name. Raises DeploymentError when the build is missing or incomplete."""
    try:
        types = json.loads(path.read_bytes())["contractTypes"]
    except FileNotFoundError:
        raise DeploymentError(f"{path} does not exist: compile the contracts first (`ape compile`)") from None
    except (ValueError, KeyError):
        raise DeploymentError(f"{path} is damaged: remove it and compile again (`ape compile --force`)") from None
    missing = [name for name in CONTRACTS if name not in types]
    if missing:
        raise DeploymentError(f"the build lacks {', '.join(missing)}: compile again (`ape compile --force`)")
    return {name: _artifact(name, types[name]) for name in CONTRACTS}


def _artifact(name: str, entry: Mapping[str, Any]) -> Artifact:
    return Artifact(
        name=name,
        source=entry["sourceId"],
        abi=entry["abi"],
        init_code=_code(entry["deploymentBytecode"]["bytecode"]),
        runtime=_code(entry["runtimeBytecode"]["bytecode"]),
    )


def _code(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def abi_text(artifact: Artifact) -> str:
    """The content of protocol/abi/<name>.json."""
    return json.dumps(artifact.abi, indent=1, sort_keys=True) + "\n"


def export_abis(artifacts: Mapping[str, Artifact], folder: Path = ABI_FOLDER) -> list[Path]:
    """Write the ABIs that differ from their files; returns those."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, artifact in artifacts.items():
        path = folder / f"{name}.json"
        text = abi_text(artifact)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            written.append(path)
    return written
