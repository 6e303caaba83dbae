"""The deployment file: what is written is what is read, anything else is refused with advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.chain.deployments import (
    ContractRecord,
    Deployment,
    Profile,
    abi_hash,
    code_hash,
    load,
    load_file,
    path_of,
)
from protocol.chain.exceptions import DeploymentError
from protocol.hashing import keccak

RECORD = ContractRecord("0x5FbDB2315678afecb367f032d93F642f64180aa3", b"\x02" * 32, b"\x03" * 32)


def deployment(profile: Profile | None = None) -> Deployment:
    profile = profile or Profile("base", finality_tag="finalized", l1_fee=True)
    return Deployment(8453, b"\x01" * 32, 12, profile, {"LeaseEscrow": RECORD, "Registry": RECORD})


@pytest.mark.parametrize(
    "profile", [Profile("base", finality_tag="safe", l1_fee=True), Profile("anvil", confirmations=1)]
)
def test_load__what_save_wrote__is_equal(tmp_path: Path, profile: Profile) -> None:
    written = deployment(profile)
    path = written.save(tmp_path)
    assert path == tmp_path / "8453.json"
    assert load(8453, tmp_path) == load_file(path) == written
    assert path.read_text(encoding="utf-8") == written.as_json()
    assert [entry.name for entry in tmp_path.iterdir()] == ["8453.json"]


def test_save__replaces_an_older_file(tmp_path: Path) -> None:
    deployment(Profile("old", confirmations=3)).save(tmp_path)
    deployment().save(tmp_path)
    assert load(8453, tmp_path).profile.name == "base"


def test_as_json__has_exactly_the_documented_members() -> None:
    document = json.loads(deployment().as_json())
    assert set(document) == {"chain_id", "genesis_hash", "block", "profile", "contracts"}
    assert document["profile"] == {"name": "base", "finality_tag": "finalized", "l1_fee": True}
    assert document["contracts"]["LeaseEscrow"] == {
        "address": RECORD.address,
        "code_hash": "0x" + "02" * 32,
        "abi_hash": "0x" + "03" * 32,
    }


def test_contract__not_deployed__says_so() -> None:
    with pytest.raises(DeploymentError, match=r"no Staking.*deploy again"):
        deployment().contract("Staking")


def test_load__missing__says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="does not exist: deploy the contracts"):
        load(1, tmp_path)


def test_load__renamed_file__is_refused(tmp_path: Path) -> None:
    deployment().save(tmp_path).rename(path_of(1, tmp_path))
    with pytest.raises(DeploymentError, match="describes chain 8453, not chain 1"):
        load(1, tmp_path)


def test_load__folder_in_its_place__is_refused(tmp_path: Path) -> None:
    path_of(1, tmp_path).mkdir()
    with pytest.raises(DeploymentError, match="cannot be read"):
        load(1, tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000, b"{}", b" " * 2_000_000],
    ids=["empty", "open", "list", "null", "number", "not text", "deep", "no members", "too large"],
)
def test_load__no_deployment_file__is_refused(tmp_path: Path, content: bytes) -> None:
    path_of(1, tmp_path).write_bytes(content)
    with pytest.raises(DeploymentError, match=r"1\.json"):
        load(1, tmp_path)


def put(*path: str, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


HEX = "0x" + "0a" * 32
NO_OBJECTS: list[Any] = [None, [], "text"]
CHANGES: list[Callable[[Any], None]] = [
    put("contracts", value={}),
    *[put("chain_id", value=v) for v in (None, "8453", 0, -1, 1.5, True, 2**64)],
    *[put("genesis_hash", value=v) for v in (None, 5, "0x", HEX[2:], HEX[:-1], HEX + "00", "0x" + "zz" * 32)],
    *[put("block", value=v) for v in (None, "1", -1, 2**64)],
    *[put("profile", value=v) for v in NO_OBJECTS],
    *[put("profile", "name", value=v) for v in (None, 5)],
    *[put("profile", "l1_fee", value=v) for v in (None, 1, "true")],
    *[put("profile", "finality_tag", value=v) for v in (None, "latest", 5)],
    *[put("profile", "confirmations", value=v) for v in (1, 0)],
    *[put("contracts", value=v) for v in NO_OBJECTS],
    *[put("contracts", "Registry", value=v) for v in NO_OBJECTS],
    *[put("contracts", "Registry", "address", value=v) for v in (None, 5, "0x12", RECORD.address.replace("F", "f", 1))],
    *[put("contracts", "Registry", "code_hash", value=v) for v in (None, "0x12")],
    *[put("contracts", "Registry", "abi_hash", value=v) for v in (None, "0x12")],
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_load__any_member_wrong__is_refused(tmp_path: Path, number: int) -> None:
    document = json.loads(deployment().as_json())
    CHANGES[number](document)
    path_of(8453, tmp_path).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DeploymentError, match=r"8453\.json: .*; restore the file, or deploy again"):
        load(8453, tmp_path)


@pytest.mark.parametrize("member", ["chain_id", "genesis_hash", "block", "profile", "contracts"])
def test_load__any_member_missing__is_refused(tmp_path: Path, member: str) -> None:
    document = json.loads(deployment().as_json())
    del document[member]
    path_of(8453, tmp_path).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DeploymentError, match=member):
        load(8453, tmp_path)


def test_hashes__do_not_depend_on_the_order_of_members() -> None:
    assert abi_hash([{"type": "function", "name": "f"}]) == abi_hash([{"name": "f", "type": "function"}])
    assert abi_hash([{"name": "f"}]) == keccak(b'[{"name":"f"}]')
    assert code_hash(b"\x60\x00") == keccak(b"\x60\x00")
