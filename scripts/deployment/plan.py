"""Which transactions make a deployment, and which addresses they lead to.

A contract's address follows from the deployer and its nonce, so every contract is built with the final addresses of all
others as immutables, also of those that come after it. What a constructor wants is read from the parameter names of its
ABI; each such name must also be a public getter that later shows what was stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import rlp
from eth_abi.abi import encode as abi_encode

from protocol.address import to_address
from protocol.chain.exceptions import DeploymentError
from protocol.hashing import keccak
from scripts.deployment.artifacts import CONTRACTS, Artifact

CONTRACT_OF_REFERENCE = {
    "claw": "ClawToken",
    "params": "Params",
    "registry": "Registry",
    "staking": "Staking",
    "escrow": "LeaseEscrow",
    "usage_anchor": "UsageAnchor",
    "arbitration": "Arbitration",
}
TREASURY = "treasury"


@dataclass(frozen=True)
class Creation:
    """A transaction that makes a contract at `address`; `references` is what its getters must then answer."""

    name: str
    nonce: int
    address: str
    data: bytes
    references: Mapping[str, str]


@dataclass(frozen=True)
class Listing:
    """A transaction that puts a payment token on the list of Params."""

    name: str
    nonce: int
    token: str
    params: str
    data: bytes


@dataclass(frozen=True)
class Plan:
    creations: tuple[Creation, ...]
    listings: tuple[Listing, ...]


def created_address(deployer: str, nonce: int) -> str:
    """Where a contract created by this transaction stands."""
    return to_address("0x" + keccak(rlp.encode([bytes.fromhex(deployer[2:]), nonce]))[12:].hex(), "address")


def make_plan(
    artifacts: Mapping[str, Artifact], deployer: str, first_nonce: int, treasury: str, usdc: str | None
) -> Plan:
    """The transactions in order; TestUSDC is among them only when there is no `usdc`."""
    names = [name for name in CONTRACTS if usdc is None or name != "TestUSDC"]
    addresses = {name: created_address(deployer, first_nonce + i) for i, name in enumerate(names)}
    values = {key: addresses[name] for key, name in CONTRACT_OF_REFERENCE.items()} | {TREASURY: treasury}
    creations = []
    for i, name in enumerate(names):
        references = references_of(artifacts[name], values)
        arguments = abi_encode(["address"] * len(references), list(references.values()))
        data = artifacts[name].init_code + arguments
        creations.append(Creation(name, first_nonce + i, addresses[name], data, references))
    tokens = {"USDC": usdc or addresses["TestUSDC"], "CLAW": addresses["ClawToken"]}
    encoder = artifacts["Params"].encoder()
    listings = [
        Listing(name, nonce, token, addresses["Params"], encoder.encode("list_token", token, True))
        for nonce, (name, token) in enumerate(tokens.items(), first_nonce + len(names))
    ]
    return Plan(tuple(creations), tuple(listings))


def references_of(artifact: Artifact, values: Mapping[str, str]) -> dict[str, str]:
    """A contract's constructor arguments by the name of the getter that shows each.

    Raises DeploymentError for a parameter that nothing in the deployment can fill.
    """
    references = {}
    for parameter in artifact.constructor_inputs:
        getter = parameter["name"].strip("_")
        if parameter["type"] != "address" or getter not in values:
            raise DeploymentError(f"the constructor of {artifact.name} wants an unknown {parameter['type']} {getter}")
        references[getter] = values[getter]
    return references
