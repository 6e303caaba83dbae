"""Readers of single ABI words. Each refuses with ValueError what the type cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WordReader = Callable[[bytes], Any]
_NO_ADDRESS = bytes(12)


def reader_of(kind: str) -> WordReader | None:
    """The reader of a static type of one word, None for every other type."""
    if kind in ("uint256", "bytes32"):
        return _uint256 if kind == "uint256" else bytes
    if kind == "address":
        return _address
    if kind == "bool":
        return _bool
    if kind.startswith("uint"):
        return _uint(int(kind[4:]))
    return None


def _uint256(word: bytes) -> int:
    return int.from_bytes(word, "big")


def _address(word: bytes) -> bytes:
    if word[:12] != _NO_ADDRESS:
        raise ValueError("no address")
    return word[12:]


def _bool(word: bytes) -> bool:
    number = int.from_bytes(word, "big")
    if number > 1:
        raise ValueError("no bool")
    return number == 1


def _uint(bits: int) -> WordReader:
    def read(word: bytes) -> int:
        number = int.from_bytes(word, "big")
        if number >> bits:
            raise ValueError(f"no uint{bits}")
        return number

    return read
