"""Keccak-256, and the two hashes that every id and digest is built from."""

from __future__ import annotations

from sha3 import keccak_256 as _keccak_256  # type: ignore[import-untyped]

ZERO_BYTES32 = bytes(32)


def keccak(data: bytes) -> bytes:
    """Keccak-256 of `data`: 32 bytes."""
    digest: bytes = _keccak_256(data).digest()
    return digest


def word(value: int) -> bytes:
    """`value` as one ABI word: 32 bytes big-endian."""
    return value.to_bytes(32, "big")
