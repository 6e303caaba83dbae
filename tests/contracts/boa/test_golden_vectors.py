"""The golden vectors of docs/protocol.md against the contracts: digests, ids, recovery and inclusion proofs.

The same file is checked by the Python package and by a viem script; here Lens must agree to the byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boa
import pytest

from protocol.typed_data import MESSAGE_TYPES
from tests.contracts.boa.market import CONTRACTS, deployer

VECTORS: dict[str, Any] = json.loads((CONTRACTS.parent / "tests" / "protocol" / "vectors.json").read_text())
OFF_CHAIN = {"Document"}
"""Types that no contract hashes."""
ON_CHAIN = [vector for vector in VECTORS["messages"] if vector["primaryType"] not in OFF_CHAIN]
INCLUSION = VECTORS["merkle"]["inclusion"]

_HARNESS = """
from modules import signature

@external
@pure
def recover(digest: bytes32, r: bytes32, vs: bytes32) -> address:
    return signature._recover(digest, r, vs)

@external
@pure
def recover_wire(digest: bytes32, wire: Bytes[1024]) -> address:
    r: bytes32 = empty(bytes32)
    vs: bytes32 = empty(bytes32)
    r, vs = signature._compact(wire)
    return signature._recover(digest, r, vs)
"""


def lens_for(escrow: str) -> Any:
    """A Lens whose domain is this escrow's; it is asked for digests only."""
    nobody = "0x" + "00" * 20
    return deployer(CONTRACTS, "Lens").deploy(nobody, nobody, nobody, escrow, nobody)


@contextmanager
def chain(chain_id: int) -> Iterator[None]:
    """The in-process chain with another id."""
    before = boa.env.evm.patch.chain_id
    boa.env.evm.patch.chain_id = chain_id
    try:
        yield
    finally:
        boa.env.evm.patch.chain_id = before


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def value_of(kind: str, value: Any) -> Any:
    """A vector's value as the contract takes it."""
    if kind.startswith("uint"):
        return int(value)
    return raw(value) if kind == "bytes32" else value


def arguments_of(vector: dict[str, Any]) -> tuple[Any, ...]:
    kind = next(kind for kind in MESSAGE_TYPES if kind.__name__ == vector["primaryType"])
    return tuple(value_of(member.solidity_type, vector["message"][member.name]) for member in kind.MEMBERS)


def digest_on_chain(lens: Any, vector: dict[str, Any]) -> bytes:
    arguments = arguments_of(vector)
    calls = {
        "OpenLease": lambda: lens.open_lease_digest(arguments),
        "Voucher": lambda: lens.voucher_digest(*arguments),
        "Receipt": lambda: lens.receipt_digest(arguments),
        "Anchor": lambda: lens.anchor_digest(*arguments),
        "NodeKey": lambda: lens.node_key_digest(*arguments),
        "Terms": lambda: lens.terms_digest(arguments),
    }
    return bytes(calls[vector["primaryType"]]())


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The signature module behind external functions."""
    folder = tmp_path_factory.mktemp("harness")
    shutil.copytree(CONTRACTS / "modules", folder / "modules")
    path = folder / "Harness.vy"
    path.write_text(_HARNESS)
    return boa.load(str(path))


@pytest.mark.parametrize("vector", ON_CHAIN, ids=lambda vector: vector["name"])
def test_digest__of_each_message__is_that_of_the_vector(vector: dict[str, Any]) -> None:
    expected = vector["structHash"] if vector["primaryType"] == "Terms" else vector["digest"]
    if vector["primaryType"] == "Terms":
        found = digest_on_chain(lens_for(VECTORS["domains"][0]["escrow"]), vector)
    else:
        with chain(int(vector["chainId"])):
            found = digest_on_chain(lens_for(vector["escrow"]), vector)
    assert found == raw(expected)


def test_digest__every_type_of_the_protocol__is_among_the_vectors() -> None:
    names = {vector["primaryType"] for vector in ON_CHAIN}
    assert names == {kind.__name__ for kind in MESSAGE_TYPES} - OFF_CHAIN


@pytest.mark.parametrize("vector", [v for v in ON_CHAIN if "signature" in v], ids=lambda vector: vector["name"])
def test_signature__of_each_message__recovers_on_chain(harness: Any, vector: dict[str, Any]) -> None:
    digest, signature = raw(vector["digest"]), vector["signature"]
    assert harness.recover(digest, raw(signature["r"]), raw(signature["vs"])) == vector["signer"]
    assert harness.recover_wire(digest, raw(signature["wire"])) == vector["signer"]
    other = bytes([digest[0] ^ 1]) + digest[1:]
    assert harness.recover(other, raw(signature["r"]), raw(signature["vs"])) != vector["signer"]


@pytest.mark.parametrize("vector", VECTORS["leaseIds"], ids=lambda vector: vector["leaseId"][:10])
def test_lease_id__of_each_preimage__is_that_of_the_vector(vector: dict[str, Any]) -> None:
    with chain(int(vector["chainId"])):
        found = lens_for(vector["escrow"]).lease_id(
            vector["owner"],
            int(vector["nonce"]),
            int(vector["provider"]),
            int(vector["offerId"]),
            int(vector["version"]),
            vector["signer"],
            raw(vector["termsDigest"]),
        )
    assert bytes(found) == raw(vector["leaseId"])


@pytest.mark.parametrize("vector", VECTORS["contexts"], ids=lambda vector: vector["context"][:10])
def test_voucher_context__of_each_request__is_that_of_the_vector(vector: dict[str, Any]) -> None:
    lens = lens_for(VECTORS["domains"][0]["escrow"])
    found = lens.voucher_context(
        int(vector["seq"]), raw(vector["requestHash"]), int(vector["maxCost"]), int(vector["sentAt"])
    )
    assert bytes(found) == raw(vector["context"])


def includes(root: bytes, count: int, index: int, leaf: bytes, proof: list[bytes]) -> bool:
    return bool(lens_for(VECTORS["domains"][0]["escrow"]).includes(root, count, index, leaf, proof))


def inclusion(vector: dict[str, Any]) -> tuple[bytes, int, int, bytes, list[bytes]]:
    index = int(vector["index"])
    leaf = raw(VECTORS["merkle"]["leafDigests"][index])
    return raw(vector["root"]), int(vector["count"]), index, leaf, [raw(item) for item in vector["proof"]]


@pytest.mark.parametrize("vector", INCLUSION, ids=lambda vector: f"{vector['index']}_of_{vector['count']}")
def test_includes__each_proof__holds_and_every_tampered_one_fails(vector: dict[str, Any]) -> None:
    root, count, index, leaf, proof = inclusion(vector)
    assert includes(root, count, index, leaf, proof)
    flipped = bytes([leaf[0] ^ 1]) + leaf[1:]
    tampered = [
        (flipped, count, index, leaf, proof),
        (root, count, index, flipped, proof),
        (root, count + 1, index, leaf, proof),
        (root, count, index + 1, leaf, proof),
        (root, count, count, leaf, proof),
        (root, count, index, leaf, [*proof, leaf]),
        (root, 0, 0, leaf, []),
    ]
    if index > 0:
        tampered.append((root, count, index - 1, leaf, proof))
    if proof:
        tampered.append((root, count, index, leaf, proof[:-1]))
        tampered.append((root, count, index, leaf, [*proof[:-1], bytes(32)]))
        tampered.append((root, count, index, leaf, [bytes(32), *proof[1:]]))
    for case in tampered:
        assert not includes(*case), case
