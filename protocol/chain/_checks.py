"""Turn what a node said into Python values, or refuse it."""

from __future__ import annotations

import re
from typing import Any

from protocol.address import to_address
from protocol.chain.exceptions import MalformedAnswer

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_SHOWN = 60


def shown(value: Any) -> str:
    """A short, printable form of anything, for error messages."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def quantity(value: Any, what: str, bits: int = 256) -> int:
    """A hexadecimal integer below 2**bits. Leading zeros are tolerated: nodes write them."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise MalformedAnswer(f"{what} is not a quantity: {shown(value)}")
    number = int(value, 16)
    if number >> bits:
        raise MalformedAnswer(f"{what} does not fit {bits} bits: {shown(value)}")
    return number


def data(value: Any, what: str, length: int | None = None) -> bytes:
    """Hexadecimal bytes, of exactly `length` when given."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise MalformedAnswer(f"{what} is not hexadecimal data: {shown(value)}")
    raw = bytes.fromhex(value[2:])
    if length is not None and len(raw) != length:
        raise MalformedAnswer(f"{what} has {len(raw)} bytes instead of {length}")
    return raw


def address(value: Any, what: str) -> str:
    """An address in its checksummed form."""
    return to_address(data(value, what, 20))


def member(value: Any, key: str, what: str) -> Any:
    """A member of a JSON object; missing is refused, null is returned as None."""
    if not isinstance(value, dict) or key not in value:
        raise MalformedAnswer(f"{what} has no {key}: {shown(value)}")
    return value[key]
