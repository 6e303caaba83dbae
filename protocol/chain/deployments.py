"""The deployment file `deployments/<chain-id>.json`: which contracts of this program stand on which chain.

    {"chain_id": 31337, "genesis_hash": "0x…", "block": 12,
     "profile": {"name": "anvil", "confirmations": 1, "l1_fee": false},
     "contracts": {"LeaseEscrow": {"address": "0x…", "code_hash": "0x…", "abi_hash": "0x…"}, …}}

`block` is the number of the first block that holds any of the contracts: where an indexer starts. A profile says when a
block is final, either by `confirmations` (blocks on top, itself counted) or by a `finality_tag` ("safe", "finalized"),
and whether an L2 charges for data apart from gas (`l1_fee`, the OP stack). `code_hash` is keccak-256 of the runtime
code on chain, `abi_hash` that of the ABI's canonical JSON. Every fault raises DeploymentError saying what to do next.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.address import to_address
from protocol.chain.exceptions import DeploymentError
from protocol.exceptions import InvalidField
from protocol.hashing import keccak

FOLDER = Path(__file__).resolve().parents[2] / "deployments"
FINALITY_TAGS = ("safe", "finalized")
_MAX_BYTES = 1024 * 1024
_MAX_CONFIRMATIONS = 10_000


@dataclass(frozen=True, slots=True)
class Profile:
    """How a network behaves: exactly one of `confirmations` (at least 1) and `finality_tag` is set."""

    name: str
    confirmations: int | None = None
    finality_tag: str | None = None
    l1_fee: bool = False

    def __post_init__(self) -> None:
        if (self.confirmations is None) == (self.finality_tag is None):
            raise DeploymentError("a profile needs either confirmations or finality_tag")
        if self.confirmations is not None and not 1 <= self.confirmations <= _MAX_CONFIRMATIONS:
            raise DeploymentError(f"profile.confirmations must be from 1 to {_MAX_CONFIRMATIONS}")
        if self.finality_tag is not None and self.finality_tag not in FINALITY_TAGS:
            raise DeploymentError(f"profile.finality_tag must be one of {', '.join(FINALITY_TAGS)}")

    @property
    def is_development(self) -> bool:
        """Whether it is a chain on somebody's own machine, where time may be moved and addresses are private."""
        return self.name == "anvil"


@dataclass(frozen=True, slots=True)
class ContractRecord:
    """One contract: its EIP-55 address and the keccak-256 of its runtime code and of its ABI."""

    address: str
    code_hash: bytes
    abi_hash: bytes


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything the deployment file says."""

    chain_id: int
    genesis_hash: bytes
    block: int
    profile: Profile
    contracts: Mapping[str, ContractRecord]

    def contract(self, name: str) -> ContractRecord:
        record = self.contracts.get(name)
        if record is None:
            raise DeploymentError(
                f"the deployment on chain {self.chain_id} has no {name}: it is of another version of this program; "
                "deploy again or use the matching version"
            )
        return record

    def address(self, name: str) -> str:
        return self.contract(name).address

    def as_json(self) -> str:
        """The file's text; equal deployments give equal bytes."""
        profile: dict[str, Any] = {"name": self.profile.name}
        if self.profile.confirmations is not None:
            profile["confirmations"] = self.profile.confirmations
        else:
            profile["finality_tag"] = self.profile.finality_tag
        profile["l1_fee"] = self.profile.l1_fee
        contracts = {
            name: {
                "address": record.address,
                "code_hash": "0x" + record.code_hash.hex(),
                "abi_hash": "0x" + record.abi_hash.hex(),
            }
            for name, record in sorted(self.contracts.items())
        }
        document = {
            "chain_id": self.chain_id,
            "genesis_hash": "0x" + self.genesis_hash.hex(),
            "block": self.block,
            "profile": profile,
            "contracts": contracts,
        }
        return json.dumps(document, indent=2) + "\n"

    def save(self, folder: Path = FOLDER) -> Path:
        """Write `<chain-id>.json` whole or not at all, replacing an older one; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = path_of(self.chain_id, folder)
        descriptor, temporary = tempfile.mkstemp(prefix=path.name, dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self.as_json())
            file.flush()
            os.fsync(descriptor)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        return path


def path_of(chain_id: int, folder: Path = FOLDER) -> Path:
    return folder / f"{chain_id}.json"


def code_hash(runtime_code: bytes) -> bytes:
    """Keccak-256 of the code that `eth_getCode` returns."""
    return keccak(runtime_code)


def abi_hash(abi: list[dict[str, Any]]) -> bytes:
    """Keccak-256 of the ABI as JSON with sorted keys and no spaces."""
    return keccak(json.dumps(abi, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode())


def load(chain_id: int, folder: Path = FOLDER) -> Deployment:
    """The deployment on this chain, from its file."""
    deployment = load_file(path_of(chain_id, folder))
    if deployment.chain_id != chain_id:
        raise DeploymentError(
            f"{path_of(chain_id, folder)} describes chain {deployment.chain_id}, not chain {chain_id}: "
            "the file was renamed or copied; restore it, or deploy again"
        )
    return deployment


def load_file(path: Path) -> Deployment:
    """The deployment a file describes; whether it matches a chain is checked by the chain client."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise DeploymentError(
            f"{path} does not exist: deploy the contracts to this chain (`ape run deploy`), or fetch the file of "
            "an existing deployment"
        ) from None
    except OSError as error:
        raise DeploymentError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None
    if len(raw) > _MAX_BYTES:
        raise DeploymentError(f"{path} is larger than {_MAX_BYTES} bytes: it is no deployment file")
    try:
        return parse(json.loads(raw))
    except DeploymentError as error:
        raise DeploymentError(f"{path}: {error}; restore the file, or deploy again") from None
    except (ValueError, RecursionError):
        raise DeploymentError(f"{path} is not valid JSON: restore the file, or deploy again") from None


def parse(document: Any) -> Deployment:
    """A deployment from its decoded JSON."""
    contracts = _member(document, "contracts", dict)
    if not contracts:
        raise DeploymentError("contracts names none")
    profile = _member(document, "profile", dict)
    return Deployment(
        chain_id=_whole(document, "chain_id", 1),
        genesis_hash=_hash(document, "genesis_hash"),
        block=_whole(document, "block", 0),
        profile=Profile(
            name=_member(profile, "name", str),
            confirmations=_whole(profile, "confirmations", 1) if "confirmations" in profile else None,
            finality_tag=_member(profile, "finality_tag", str) if "finality_tag" in profile else None,
            l1_fee=_member(profile, "l1_fee", bool),
        ),
        contracts={name: _record(contracts, name) for name in contracts},
    )


def _record(contracts: dict[str, Any], name: str) -> ContractRecord:
    entry = _member(contracts, name, dict)
    try:
        address = to_address(_member(entry, "address", str), f"{name}.address")
    except InvalidField as error:
        raise DeploymentError(str(error)) from None
    return ContractRecord(address, _hash(entry, "code_hash"), _hash(entry, "abi_hash"))


def _member(value: Any, key: str, kind: type) -> Any:
    if not isinstance(value, dict):
        raise DeploymentError("not a deployment file: an object is expected")
    if type(value.get(key)) is not kind:
        raise DeploymentError(f"{key} is missing or not of the type {kind.__name__}")
    return value[key]


def _whole(value: Any, key: str, least: int) -> int:
    number: int = _member(value, key, int)
    if not least <= number < 2**64:
        raise DeploymentError(f"{key} is out of range")
    return number


def _hash(value: Any, key: str) -> bytes:
    text = _member(value, key, str)
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32 or not text.startswith("0x"):
        raise DeploymentError(f"{key} is not 0x and 64 hexadecimal digits")
    return raw
