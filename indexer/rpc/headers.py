"""Blocks' headers as the indexer needs them."""

from __future__ import annotations

from typing import Any, NamedTuple

from protocol.chain.exceptions import MalformedAnswer, RpcRejected
from protocol.chain.rpc import Call

_WORD = 32
_BLOOM_BITS = 2048


class Header(NamedTuple):
    """A block. `bloom` is the filter over addresses and topics of its logs, as a number; `time` in Unix seconds."""

    number: int
    hash: bytes
    parent_hash: bytes
    time: int
    bloom: int


def header_call(block: int | str) -> Call:
    """Asks for a header by number or tag."""
    return "eth_getBlockByNumber", [hex(block) if isinstance(block, int) else block, False]


def parse_header(answer: Any) -> Header:
    """Raises MalformedAnswer, also when the node has no such block, and RpcRejected."""
    if isinstance(answer, RpcRejected):
        raise answer
    try:
        header = Header(
            int(answer["number"], 16),
            bytes.fromhex(answer["hash"][2:]),
            bytes.fromhex(answer["parentHash"][2:]),
            int(answer["timestamp"], 16),
            int(answer["logsBloom"], 16),
        )
    except (KeyError, TypeError, ValueError):
        raise MalformedAnswer("a node has no such block, or answered it malformed") from None
    if len(header.hash) != _WORD or len(header.parent_hash) != _WORD or header.bloom >> _BLOOM_BITS:
        raise MalformedAnswer("a node answered a block with hashes or a bloom filter of another length")
    return header


def parse_header_at(number: int, answer: Any) -> Header:
    """As `parse_header`, of this block and no other."""
    header = parse_header(answer)
    if header.number != number:
        raise MalformedAnswer(f"a node answered block {header.number} when asked for {number}")
    return header
