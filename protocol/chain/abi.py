"""Contract ABIs: encoding calls, decoding results, reasons of reverts, and the files in `protocol/abi/`.

Structs are given as tuples, mappings by member name or protocol messages, and come back as dictionaries by member name.
Addresses come back in EIP-55 form, bytes as `bytes`. The coding is web3's strict codec. Web3's `Contract` is not used:
it searches the ABI anew for every call, at many times the codec's cost, and drops a struct's surplus members.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.abi import collapse_if_tuple, event_abi_to_log_topic
from web3 import Web3
from web3.providers.base import BaseProvider

from protocol.address import to_address
from protocol.chain.exceptions import DeploymentError, MalformedAnswer
from protocol.exceptions import InvalidField
from protocol.hashing import keccak
from protocol.typed_data import Message

CODEC = Web3(BaseProvider()).codec
"""Needs no node. Stricter than eth_abi's own: bytes must have exactly their type's length."""

FOLDER = Path(__file__).resolve().parents[1] / "abi"
T = TypeVar("T")

_ERROR_STRING = keccak(b"Error(string)")[:4]
_PANIC = keccak(b"Panic(uint256)")[:4]
_PANICS = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "invalid enum value",
    0x22: "corrupt storage",
    0x31: "pop from an empty array",
    0x32: "index out of bounds",
    0x41: "out of memory",
}


@dataclass(frozen=True)
class ContractCall(Generic[T]):
    """A read: what to send where, and how to understand the answer."""

    to: str
    data: bytes
    decode: Callable[[bytes], T]
    name: str

    def then(self, convert: Callable[[T], Any]) -> ContractCall[Any]:
        """The same read with its result converted."""
        return ContractCall(self.to, self.data, lambda raw: convert(self.decode(raw)), self.name)


@dataclass(frozen=True)
class _Function:
    name: str
    selector: bytes
    inputs: Sequence[Mapping[str, Any]]
    input_types: list[str]
    outputs: Sequence[Mapping[str, Any]]
    output_types: list[str]


class ContractAbi:
    """One contract's ABI, given as the list a compiler writes."""

    def __init__(self, name: str, entries: list[dict[str, Any]]) -> None:
        self.name = name
        self.entries = entries
        self._functions: dict[tuple[str, int], _Function] = {}
        self._errors: dict[bytes, tuple[str, list[str]]] = {}
        try:
            for entry in entries:
                self._add(entry)
        except (KeyError, TypeError, AttributeError):
            raise DeploymentError(f"the ABI of {name} is malformed: export the ABIs again") from None

    def _add(self, entry: dict[str, Any]) -> None:
        if entry["type"] == "function":
            inputs, outputs = entry["inputs"], entry.get("outputs", [])
            input_types = [abi_type(p) for p in inputs]
            self._functions[entry["name"], len(inputs)] = _Function(
                entry["name"], selector(entry), inputs, input_types, outputs, [abi_type(p) for p in outputs]
            )
        elif entry["type"] == "error":
            self._errors[selector(entry)] = (entry["name"], [abi_type(p) for p in entry["inputs"]])

    @property
    def events(self) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["type"] == "event"]

    def encode(self, function: str, *args: Any) -> bytes:
        """Calldata. Raises InvalidField naming the function when the arguments do not fit it."""
        found = self._function(function, len(args))
        values = [_plain(value, parameter) for value, parameter in zip(args, found.inputs, strict=True)]
        try:
            return found.selector + CODEC.encode(found.input_types, values)
        except (EncodingError, TypeError, ValueError, OverflowError) as error:
            raise InvalidField(f"{self.name}.{function}", f"arguments do not fit: {error}") from None

    def call(self, address: str, function: str, *args: Any) -> ContractCall[Any]:
        """A read of this function; its result is the single value returned, or a tuple of several."""
        found = self._function(function, len(args))
        return ContractCall(
            address,
            self.encode(function, *args),
            lambda raw: self._decode(found, raw),
            f"{self.name}.{function}",
        )

    def error_reason(self, data: bytes) -> str | None:
        """`Name(value, …)` when the data is one of this contract's custom errors."""
        known = self._errors.get(data[:4])
        if known is None:
            return None
        name, types = known
        try:
            values = CODEC.decode(types, data[4:])
        except DecodingError:
            return name
        return f"{name}({', '.join(str(value) for value in values)})"

    def _function(self, name: str, count: int) -> _Function:
        found = self._functions.get((name, count))
        if found is None:
            raise InvalidField(f"{self.name}.{name}", f"there is no such function of {count} arguments")
        return found

    def _decode(self, function: _Function, raw: bytes) -> Any:
        try:
            values = CODEC.decode(function.output_types, raw)
        except (DecodingError, OverflowError, UnicodeDecodeError) as error:
            raise MalformedAnswer(
                f"{self.name}.{function.name} answered {len(raw)} bytes that do not fit: {error}"
            ) from None
        named = [to_named(value, output) for value, output in zip(values, function.outputs, strict=True)]
        return named[0] if len(named) == 1 else tuple(named)


def abi_type(parameter: Mapping[str, Any]) -> str:
    """A parameter's canonical type: `tuple` becomes the list of its members' types."""
    return collapse_if_tuple(cast("dict[str, Any]", parameter))


def selector(entry: Mapping[str, Any]) -> bytes:
    """The first four bytes that name a function or custom error."""
    return topic(entry)[:4]


def topic(entry: Mapping[str, Any]) -> bytes:
    """Keccak-256 of the signature: an event's first topic."""
    return event_abi_to_log_topic(cast("Any", entry))


def to_named(value: Any, parameter: Mapping[str, Any]) -> Any:
    """A decoded value with its structs as dictionaries and its addresses in EIP-55 form."""
    kind: str = parameter["type"]
    if kind.endswith("]"):
        inner = {**parameter, "type": kind[: kind.rindex("[")]}
        return [to_named(item, inner) for item in value]
    if kind == "tuple":
        members = parameter["components"]
        return {member["name"]: to_named(item, member) for item, member in zip(value, members, strict=True)}
    return to_address(value) if kind == "address" else value


def revert_reason(data: bytes, abis: Sequence[ContractAbi] = ()) -> str:
    """What a contract said when it reverted, in words."""
    if not data:
        return "no reason given"
    head, body = data[:4], data[4:]
    try:
        if head == _ERROR_STRING:
            return str(CODEC.decode(["string"], body)[0])
        if head == _PANIC:
            code = CODEC.decode(["uint256"], body)[0]
            return f"panic: {_PANICS.get(code, hex(code))}"
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return f"unreadable reason 0x{data[:64].hex()}"
    for abi in abis:
        reason = abi.error_reason(data)
        if reason is not None:
            return reason
    return f"unknown error 0x{data[:64].hex()}"


def load_abi(name: str, folder: Path = FOLDER) -> ContractAbi:
    """The exported ABI of a contract, from `<folder>/<name>.json`."""
    path = folder / f"{name}.json"
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise DeploymentError(f"{path} cannot be read ({error.strerror}): export the ABIs again") from None
    except (ValueError, RecursionError):
        raise DeploymentError(f"{path} is not valid JSON: export the ABIs again") from None
    if not isinstance(entries, list):
        raise DeploymentError(f"{path} is not a list of ABI entries: export the ABIs again")
    return ContractAbi(name, cast("list[dict[str, Any]]", entries))


def _plain(value: Any, parameter: Mapping[str, Any]) -> Any:
    """The value with its structs as tuples, in the order of their members."""
    kind: str = parameter["type"]
    if kind.endswith("]"):
        inner = {**parameter, "type": kind[: kind.rindex("[")]}
        return [_plain(item, inner) for item in _sequence(value, parameter)]
    if kind != "tuple":
        return value
    members = parameter["components"]
    if isinstance(value, Message):
        value = value.as_tuple()
    if isinstance(value, Mapping):
        names = [member["name"] for member in members]
        if set(names) != set(value):
            raise InvalidField(parameter.get("name") or "struct", f"members must be exactly {', '.join(names)}")
        value = [value[name] for name in names]
    if len(_sequence(value, parameter)) != len(members):
        raise InvalidField(parameter.get("name") or "struct", f"{len(members)} members are needed")
    return tuple(_plain(item, member) for item, member in zip(value, members, strict=True))


def _sequence(value: Any, parameter: Mapping[str, Any]) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidField(parameter.get("name") or "argument", f"{abi_type(parameter)} is needed")
    return value
