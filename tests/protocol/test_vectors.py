"""The golden vectors: unchanged, and agreed on by eth-account, eth-abi, viem and the document."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from protocol import headers, merkle
from protocol.documents import DocumentType
from protocol.exceptions import InvalidProof
from protocol.signing import Signature, recover
from protocol.typed_data import MESSAGE_TYPES, Domain, Message, digest, hash_struct
from tests.protocol import make_vectors

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEXT = (HERE / "vectors.json").read_text(encoding="utf-8")
VECTORS: dict[str, Any] = json.loads(TEXT)
TYPES = {kind.__name__: kind for kind in MESSAGE_TYPES}
EVERY_MESSAGE = pytest.mark.parametrize("entry", VECTORS["messages"], ids=lambda entry: entry["name"])


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def message_of(entry: dict[str, Any]) -> Message:
    kind = TYPES[entry["primaryType"]]
    values: dict[str, Any] = {}
    for member in kind.MEMBERS:
        value = entry["message"][member.name]
        if member.solidity_type == "bytes32":
            value = unhex(value)
        elif member.solidity_type.startswith("uint"):
            value = int(value)
        values[member.name] = value
    return kind.from_dict(values)


def test_vectors__are_what_the_script_writes() -> None:
    assert make_vectors.render() == TEXT


def test_vectors__cover_every_type() -> None:
    assert [entry["name"] for entry in VECTORS["types"]] == list(TYPES)
    assert {entry["primaryType"] for entry in VECTORS["messages"]} == set(TYPES)
    assert len({entry["chainId"] for entry in VECTORS["messages"]}) == 4


@EVERY_MESSAGE
def test_message__ours(entry: dict[str, Any]) -> None:
    message, domain = message_of(entry), Domain(int(entry["chainId"]), entry["escrow"])
    signature = Signature.from_hex(entry["signature"]["wire"])
    assert hash_struct(message) == unhex(entry["structHash"])
    assert digest(domain, message) == unhex(entry["digest"])
    assert recover(domain, message, signature) == entry["signer"]
    assert signature.compact() == (unhex(entry["signature"]["r"]), unhex(entry["signature"]["vs"]))
    assert headers.parse_signed(type(message), entry["text"]) == headers.Signed(message, signature)


@EVERY_MESSAGE
def test_message__eth_account(entry: dict[str, Any]) -> None:
    members = [
        dict(zip(("type", "name"), member.split(" "), strict=True))
        for kind in VECTORS["types"]
        if kind["name"] == entry["primaryType"]
        for member in kind["type"].partition("(")[2].rstrip(")").split(",")
    ]
    document = {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            entry["primaryType"]: members,
        },
        "primaryType": entry["primaryType"],
        "domain": {**VECTORS["domain"], "chainId": int(entry["chainId"]), "verifyingContract": entry["escrow"]},
        "message": {
            member["name"]: int(value) if member["type"].startswith("uint") else value
            for member in members
            for value in [entry["message"][member["name"]]]
        },
    }
    signable = encode_typed_data(full_message=document)
    signed = Account.from_key(entry["privateKey"]).sign_message(signable)
    assert signable.body == unhex(entry["structHash"])
    assert bytes(signed.message_hash) == unhex(entry["digest"])
    assert bytes(signed.signature) == unhex(entry["signature"]["wire"])
    assert Account.recover_message(signable, signature=signed.signature) == entry["signer"]


def test_ids__eth_abi() -> None:
    lease = ["uint256", "address", "address", "uint64", "uint32", "uint32", "uint32", "address", "bytes32"]
    for entry in VECTORS["leaseIds"]:
        *numbers, expected = entry.values()
        values = [
            int(value) if kind.startswith("uint") else unhex(value) if kind == "bytes32" else value
            for kind, value in zip(lease, numbers, strict=True)
        ]
        assert keccak(encode(lease, values)) == unhex(expected)
    for entry in VECTORS["contexts"]:
        encoded = encode(
            ["uint64", "bytes32", "uint128", "uint64"],
            [int(entry["seq"]), unhex(entry["requestHash"]), int(entry["maxCost"]), int(entry["sentAt"])],
        )
        assert keccak(encoded) == unhex(entry["context"])


def test_merkle__proofs_verify_and_none_fits_another_root() -> None:
    leaves = [unhex(leaf) for leaf in VECTORS["merkle"]["leafDigests"]]
    roots = [unhex(root) for root in VECTORS["merkle"]["roots"]]
    assert roots[0] == bytes(32)
    assert len(set(roots)) == len(leaves) + 1
    for entry in VECTORS["merkle"]["inclusion"]:
        index, count, proof = int(entry["index"]), int(entry["count"]), [unhex(item) for item in entry["proof"]]
        merkle.verify_inclusion(leaves[index], index, count, proof, roots[count])
        assert unhex(entry["root"]) == roots[count]
        with pytest.raises(InvalidProof):
            merkle.verify_inclusion(leaves[index], index, count, proof, roots[count - 1])
    for entry in VECTORS["merkle"]["consistency"]:
        old, new, proof = int(entry["oldCount"]), int(entry["newCount"]), [unhex(item) for item in entry["proof"]]
        merkle.verify_consistency(old, unhex(entry["oldRoot"]), new, unhex(entry["newRoot"]), proof)
        with pytest.raises(InvalidProof):
            merkle.verify_consistency(old, roots[old], new, roots[new - 1], proof)


def run_viem(path: Path) -> subprocess.CompletedProcess[str]:
    node = shutil.which("node")
    assert node is not None, "node is missing"
    command = [node, str(HERE / "vectors.mjs"), str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_viem__agrees_on_every_vector() -> None:
    result = run_viem(HERE / "vectors.json")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[0]) > 600


@pytest.mark.parametrize(
    "path", [("messages", 0, "digest"), ("leaseIds", 0, "leaseId"), ("merkle", "roots", 7), ("documents", 0, "digest")]
)
def test_viem__finds_a_wrong_vector(path: tuple[Any, ...], tmp_path: Path) -> None:
    spoiled = json.loads(TEXT)
    holder: Any = spoiled
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = "0x" + "12" * 32
    (tmp_path / "vectors.json").write_text(json.dumps(spoiled))
    result = run_viem(tmp_path / "vectors.json")
    assert result.returncode != 0
    assert "0x1212" in result.stderr


def document_rows() -> dict[str, str]:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    table = text.partition("<!-- vectors -->")[2].partition("<!-- end of vectors -->")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| `([^`]*)` \|$", table, re.MULTILINE))


def at_path(path: str) -> str:
    value: Any = VECTORS
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    assert isinstance(value, str)
    return value


def test_document__quotes_the_vectors() -> None:
    rows = document_rows()
    assert len(rows) >= 20
    assert {path: at_path(path) for path in rows} == rows


def test_document__names_every_type() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    for kind in MESSAGE_TYPES:
        assert f"\n{kind.TYPE}\n" in text, kind.__name__


def test_document__lists_every_refusal_and_limit() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    for code in headers.RefusalCode:
        assert f"| `{code.value}` | {code.http_status} |" in text
    assert f"at most {headers.MAX_VALUE_CHARS} characters" in text
    for kind in DocumentType:
        assert f"| `schemas/{kind.schema_name}.json` | {kind.max_bytes // 1024} KiB |" in text
