"""The columns of a table as the API shows them, and how their values are read from text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Table

from indexer.api.errors import bad_parameter
from indexer.store.shapes import Model, shape_of
from protocol.address import address_bytes, to_address
from protocol.exceptions import InvalidField

ADDRESSES = frozenset(
    (
        *("account", "address", "caller", "delegate", "delegator", "filer", "from_delegate", "holder", "node_key"),
        *("owner", "receiver", "sender", "signer", "to_delegate", "token"),
    )
)
"""Columns of 20 bytes; every other column of bytes is shown as plain hex."""

_DIGITS = re.compile(r"[0-9]{1,78}", re.ASCII)
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2}){0,4096}", re.ASCII)
_TEXT = re.compile(r"[ -~]{1,100}", re.ASCII)
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `kind` is "number", "uint256", "address", "bytes", "flag" or "text"."""

    name: str
    kind: str
    is_nullable: bool

    def parse(self, text: str, param: str) -> Any:
        """The value that a text stands for. Raises ApiError naming `param`."""
        return _PARSERS[self.kind](text, param)


@cache
def columns_of(model: Model) -> tuple[Column, ...]:
    """The columns of a model's table, in its order."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    shape = shape_of(model)
    return tuple(
        Column(name, _shown(name, kind), bool(table.columns[name].nullable))
        for name, kind in zip(shape.columns, shape.kinds, strict=True)
    )


def shown_address(raw: bytes) -> str:
    """The EIP-55 form of 20 bytes."""
    return to_address(raw)


def shown_bytes(raw: bytes) -> str:
    """0x and hex digits."""
    return f"0x{raw.hex()}"


def _shown(name: str, kind: str) -> str:
    if kind != "binary":
        return kind
    return "address" if name in ADDRESSES else "bytes"


def _integer(bits: int) -> Callable[[str, str], int]:
    def parse(text: str, param: str) -> int:
        if not _DIGITS.fullmatch(text) or int(text) >= 1 << bits:
            raise bad_parameter(param, f"not a decimal number below 2**{bits}")
        return int(text)

    return parse


def _address(text: str, param: str) -> bytes:
    try:
        return address_bytes(to_address(text))
    except InvalidField as error:
        raise bad_parameter(param, str(error)) from error


def _bytes(text: str, param: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise bad_parameter(param, "not 0x and an even number of hex digits, at most 4096 bytes")
    return bytes.fromhex(text[2:])


def _flag(text: str, param: str) -> bool:
    if text not in _FLAGS:
        raise bad_parameter(param, "neither true nor false")
    return _FLAGS[text]


def _text(text: str, param: str) -> str:
    if not _TEXT.fullmatch(text):
        raise bad_parameter(param, "not 1 to 100 printable ASCII characters")
    return text


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "number": _integer(63),
    "uint256": _integer(256),
    "address": _address,
    "bytes": _bytes,
    "flag": _flag,
    "text": _text,
}
