"""Keccak-256, and the two hashes that every id and digest is built from."""

from __future__ import annotations

from Crypto.Hash import keccak as _keccak

_new = _keccak.new

ZERO_BYTES32 = bytes(32)


def keccak(data: bytes) -> bytes:
    """Keccak-256 of `data`: 32 bytes."""
    return _new(data=data, digest_bits=256).digest()


def word(value: int) -> bytes:
    """`value` as one ABI word: 32 bytes big-endian."""
    return value.to_bytes(32, "big")
