"""The typed reads against the exported ABIs of the real contracts."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from protocol.chain.abi import FOLDER, ContractCall, abi_type, load_abi
from protocol.chain.deployments import ContractRecord, Deployment, Profile, abi_hash
from protocol.chain.events import EventDecoder
from protocol.chain.exceptions import MalformedAnswer
from protocol.chain.reads import Reads
from protocol.chain.views import KeyRecord, Lease, LeaseOffer

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
ADDRESSES = {name: f"0x{number:040x}" for number, name in enumerate(NAMES, 1)}
DEPLOYMENT = Deployment(
    chain_id=31337,
    genesis_hash=bytes(32),
    block=0,
    profile=Profile("anvil", confirmations=1),
    contracts={name: ContractRecord(ADDRESSES[name], bytes(32), abi_hash(load_abi(name).entries)) for name in NAMES},
)
READS = Reads(DEPLOYMENT, load_abi)
TYPED = [
    name for name, _ in inspect.getmembers(Reads, inspect.isfunction) if not name.startswith("_") and name != "view"
]


def call(name: str) -> ContractCall[Any]:
    """The read with some value for each of its parameters."""
    method = getattr(READS, name)
    values: dict[str, Any] = {"bytes": b"\x07" * 32, "str": ADDRESSES["Registry"], "int": 7}
    return method(*(values[p.annotation] for p in inspect.signature(method).parameters.values()))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TYPED)
def test_reads__every_one__fits_its_contract(name: str) -> None:
    read = call(name)
    contract, function = read.name.split(".")
    assert read.to == ADDRESSES[contract]
    entry = next(e for e in load_abi(contract).entries if e.get("name") == function)
    assert entry["stateMutability"] in ("view", "pure")
    zeros = bytes(32 * sum(max(1, abi_type(output).count(",") + 1) for output in entry["outputs"]))
    result = read.decode(zeros)
    if dataclasses.is_dataclass(result):
        members = [e["name"] for output in entry["outputs"] for e in output.get("components", [])]
        names = [field.name for field in dataclasses.fields(result)]
        assert names == members or len(names) == len(entry["outputs"])
    with pytest.raises(MalformedAnswer):
        read.decode(b"")


def test_reads__structs__have_their_types() -> None:
    assert isinstance(call("lease").decode(bytes(32 * 15)), Lease)
    assert isinstance(call("offer").decode(bytes(32 * 12)), LeaseOffer)
    ones = (1).to_bytes(32, "big") + (2).to_bytes(32, "big") + (2**40 - 1).to_bytes(32, "big")
    assert call("key_record").decode(ones) == KeyRecord(1, 2, 2**40 - 1)


def test_events__of_all_contracts__have_known_types() -> None:
    decoder = EventDecoder({ADDRESSES[name]: load_abi(name) for name in NAMES})
    assert len(decoder.addresses) >= 5
    assert decoder.topic_of("LeaseEscrow", "LeaseOpened")
