"""A tiny contract that these tests compile themselves, and what they need around it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from vyper import compile_code

from protocol.chain.abi import ContractAbi
from protocol.chain.deployments import ContractRecord, Deployment, Profile, abi_hash, code_hash
from protocol.signing import Signer
from tests.support.anvil import Anvil

ETHER = 10**18
SOURCE = """
# pragma version 0.4.3

struct Pair:
    who: address
    amount: uint96

event Bumped:
    caller: indexed(address)
    slot: indexed(uint256)
    label: indexed(String[32])
    count: uint256
    note: String[64]
    pair: Pair

event Paid:
    amount: uint256

counts: public(HashMap[uint256, uint256])
total: public(uint256)
closed: public(bool)
heap: HashMap[uint256, uint256]

@external
def bump(slot: uint256, note: String[64]):
    assert not self.closed, "probe: closed"
    self.counts[slot] += 1
    self.total += 1
    log Bumped(
        caller=msg.sender,
        slot=slot,
        label="bump",
        count=self.counts[slot],
        note=note,
        pair=Pair(who=msg.sender, amount=7),
    )

@external
def close():
    self.closed = True

@external
@payable
def pay():
    log Paid(amount=msg.value)

@external
def fail():
    raise "escrow: lease not active"

@external
def overflow(x: uint256) -> uint256:
    return x + max_value(uint256)

@external
def spend():
    for i: uint256 in range(1000):
        self.heap[i] = i + 1

@external
@view
def sum(pairs: DynArray[Pair, 4], flag: bool) -> (uint256, Pair):
    total: uint256 = 0
    last: Pair = empty(Pair)
    for pair: Pair in pairs:
        total += convert(pair.amount, uint256)
        last = pair
    return total, last

@external
@view
def now() -> uint256:
    return block.timestamp
"""


@cache
def compiled() -> tuple[bytes, list[dict[str, Any]]]:
    """Creation code and ABI."""
    output = compile_code(SOURCE, output_formats=["bytecode", "abi"])
    return bytes.fromhex(output["bytecode"].removeprefix("0x")), output["abi"]


def probe_abi() -> ContractAbi:
    return ContractAbi("Probe", compiled()[1])


def export_abi(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Probe.json").write_text(json.dumps(compiled()[1]), encoding="utf-8")
    return folder


def deploy_probe(node: Anvil, profile: Profile | None = None) -> Deployment:
    """A probe on this node and the deployment that describes it."""
    address = node.deploy(compiled()[0])
    code = bytes.fromhex(node.rpc("eth_getCode", [address, "latest"])[2:])
    record = ContractRecord(_checksummed(address), code_hash(code), abi_hash(compiled()[1]))
    return Deployment(
        chain_id=node.chain_id,
        genesis_hash=genesis_hash(node),
        block=node.block_number(),
        profile=profile or Profile("anvil", confirmations=1),
        contracts={"Probe": record},
    )


def genesis_hash(node: Anvil) -> bytes:
    return bytes.fromhex(node.rpc("eth_getBlockByNumber", ["0x0", False])["hash"][2:])


def funded(node: Anvil, seed: int, wei: int = ETHER) -> Signer:
    """The account of a fixed private key, with money."""
    signer = Signer(seed.to_bytes(32, "big"))
    node.set_balance(signer.address, wei)
    return signer


def _checksummed(address: str) -> str:
    from protocol.address import to_address

    return to_address(address)
