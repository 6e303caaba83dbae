"""Addresses: everywhere in this package a `str` in EIP-55 checksum form."""

from __future__ import annotations

import re
from functools import lru_cache

from protocol.exceptions import InvalidField
from protocol.hashing import keccak

ZERO_ADDRESS = "0x" + "0" * 40

_HEX_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


@lru_cache(maxsize=8192)
def _checksum(raw: bytes) -> str:
    digits = raw.hex()
    guide = keccak(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(mark, 16) >= 8 else digit for digit, mark in zip(digits, guide, strict=False)
    )


def to_address(value: object, field: str = "address") -> str:
    """The EIP-55 form of 20 bytes, or of a hex string in any single case.

    A mixed-case string must already carry the right checksum. Raises InvalidField naming `field`.
    """
    if isinstance(value, bytes | bytearray):
        if len(value) != 20:
            raise InvalidField(field, f"an address has 20 bytes, not {len(value)}")
        return _checksum(bytes(value))
    if not isinstance(value, str) or not _HEX_ADDRESS.fullmatch(value):
        raise InvalidField(field, "not an address (0x and 40 hex digits)")
    digits = value[2:]
    address = _checksum(bytes.fromhex(digits))
    if value != address and digits != digits.lower() and digits != digits.upper():
        raise InvalidField(field, "the address has a wrong checksum")
    return address


def check_address(value: object, field: str) -> None:
    """Raise InvalidField naming `field` unless `value` is an address in EIP-55 form."""
    if not isinstance(value, str) or to_address(value, field) != value:
        raise InvalidField(field, "not an address in EIP-55 checksum form")


def address_bytes(address: str) -> bytes:
    """The 20 bytes of an address in EIP-55 form."""
    return bytes.fromhex(address[2:])
