"""Logs as nodes send them, checked in form and against their blocks' headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from indexer.rpc.bloom import bits_of
from indexer.rpc.headers import Header
from protocol.chain.exceptions import MalformedAnswer

_ADDRESS = 20
_WORD = 32
_MAX_TOPICS = 4


class Log(NamedTuple):
    """A log, its fields in the order of the table `raw_log`. Absent topics are None; `block_time` in Unix seconds."""

    block_number: int
    block_hash: bytes
    log_index: int
    block_time: int
    tx_hash: bytes
    tx_index: int
    address: bytes
    topic0: bytes | None
    topic1: bytes | None
    topic2: bytes | None
    topic3: bytes | None
    data: bytes


def parse_logs(answer: Any) -> list[Log]:
    """Logs in chain order, their `block_time` still 0. Raises MalformedAnswer."""
    if not isinstance(answer, list):
        raise MalformedAnswer("eth_getLogs answered no list")
    from_hex = bytes.fromhex
    logs: list[Log] = []
    misfits = False
    try:
        for entry in answer:
            topics: list[bytes | None] = [from_hex(topic[2:]) for topic in entry["topics"]]
            count = len(topics)
            topics += [None] * (_MAX_TOPICS - count)
            topic0, topic1, topic2, topic3 = topics
            data = entry["data"]
            log = Log(
                int(entry["blockNumber"], 16),
                from_hex(entry["blockHash"][2:]),
                int(entry["logIndex"], 16),
                0,
                from_hex(entry["transactionHash"][2:]),
                int(entry["transactionIndex"], 16),
                from_hex(entry["address"][2:]),
                topic0,
                topic1,
                topic2,
                topic3,
                from_hex(data[2:]),
            )
            misfits = (
                entry.get("removed")
                or len(log.block_hash) != _WORD
                or len(log.tx_hash) != _WORD
                or len(log.address) != _ADDRESS
                or any(topic is not None and len(topic) != _WORD for topic in topics)
                or 2 * len(log.data) + 2 != len(data)
            )
            logs.append(log)
            if misfits:
                break
    except (AttributeError, KeyError, TypeError, ValueError):
        misfits = True
    if misfits:
        raise MalformedAnswer("eth_getLogs answered a malformed log")
    logs.sort(key=_place)
    for before, after in pairwise(logs):
        if before.block_number == after.block_number and before.log_index >= after.log_index:
            raise MalformedAnswer(f"eth_getLogs answered log {after.log_index} of block {after.block_number} twice")
    return logs


def check_asked(logs: Iterable[Log], first: int, last: int, addresses: frozenset[bytes]) -> None:
    """Raise MalformedAnswer if a log lies outside of the blocks `first` to `last` or is of another address."""
    if any(log.address not in addresses or not first <= log.block_number <= last for log in logs):
        raise MalformedAnswer("eth_getLogs answered logs that were not asked for")


def check_blocks(logs: Sequence[Log], headers: Mapping[int, Header]) -> list[Log]:
    """The logs with their blocks' times. Raises MalformedAnswer if a block cannot hold them."""
    blooms: dict[int, int] = {}
    timed: list[Log] = []
    for log in logs:
        header = headers[log.block_number]
        if log.block_hash != header.hash:
            raise MalformedAnswer(f"a log of block {log.block_number} names another block hash than that block has")
        bits = bits_of(log.address)
        for topic in (log.topic0, log.topic1, log.topic2, log.topic3):
            if topic is not None:
                bits |= bits_of(topic)
        blooms[log.block_number] = blooms.get(log.block_number, 0) | bits
        timed.append(log._replace(block_time=header.time))
    for number, bits in blooms.items():
        if headers[number].bloom & bits != bits:
            raise MalformedAnswer(f"the bloom filter of block {number} knows nothing of some of the logs answered")
    return timed


def _place(log: Log) -> tuple[int, int]:
    return log.block_number, log.log_index
