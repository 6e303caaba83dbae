"""A block's bloom filter: 2048 bits over the addresses and topics of its logs. It lies never about absence."""

from __future__ import annotations

from functools import lru_cache

from protocol.hashing import keccak


@lru_cache(maxsize=65_536)
def bits_of(item: bytes) -> int:
    """The three bits that an address or topic sets."""
    digest = keccak(item)
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[at : at + 2], "big") & 2047)
    return bits


def may_hold(bloom: int, item: bytes) -> bool:
    """False only if no log of the block has this address or topic."""
    bits = bits_of(item)
    return bloom & bits == bits
