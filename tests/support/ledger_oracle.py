"""Judges a worker's ledger file from outside: by its rows, by what its clients hold, and by what the chain has.

It shares no code with the ledger: its own reader, eth-account's typed-data hashes, and roots computed from the
definition in docs/protocol.md.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from protocol.typed_data import Domain, Receipt, typed_data

Key = tuple[bytes, int]
Fields = dict[str, str]


class Contradiction(AssertionError):  # noqa: N818 - it is what was found
    """The ledger is not what clients and chain hold it to."""


@dataclass
class Evidence:
    """What others hold.

    `receipts` are the texts that clients got; `finals` the costs of the requests that clients know the end of, `paid`
    their highest vouchers. `settled` and `anchors` (count, root) are the chain's, the latter in its order.
    """

    domain: Domain
    receipts: list[str] = field(default_factory=list)
    finals: dict[Key, int] = field(default_factory=dict)
    paid: dict[bytes, int] = field(default_factory=dict)
    settled: dict[bytes, int] = field(default_factory=dict)
    anchors: list[tuple[int, bytes]] = field(default_factory=list)


def judge(path: Path, evidence: Evidence) -> int:
    """Raises Contradiction; returns the number of final receipts."""
    with closing(sqlite3.connect(path)) as db:
        rows = [fields(text) for (text,) in db.execute("SELECT signed FROM receipts ORDER BY id")]
        texts = {text for (text,) in db.execute("SELECT signed FROM receipts")}
        order = [
            fields(text) for (text,) in db.execute("SELECT signed FROM receipts WHERE position >= 0 ORDER BY position")
        ]
        places = [row[0] for row in db.execute("SELECT position FROM receipts WHERE position >= 0 ORDER BY position")]
        admitted = {(row[0], row[1]) for row in db.execute("SELECT lease_id, seq FROM requests")}
        totals = {
            row[0]: (int(row[1]), int(row[2]))
            for row in db.execute("SELECT lease_id, served, cumulative FROM accounts")
        }
        vouchers: dict[bytes, int] = defaultdict(int)
        for (text,) in db.execute("SELECT signed FROM vouchers"):
            found = fields(text)
            lease = bytes.fromhex(found["leaseId"][2:])
            vouchers[lease] = max(vouchers[lease], int(found["cumulative"]))
    for text in evidence.receipts:
        _hold(text in texts, f"a client holds a receipt that is not in the ledger: {text}")
    by_request = _check_requests(rows, admitted)
    for key, cost in evidence.finals.items():
        _hold(cost_of(by_request.get(key, [])) == cost, f"a client knows another cost of request {key[1]}")
    for lease, (served, cumulative) in totals.items():
        costs = sum(cost_of(parts) for key, parts in by_request.items() if key[0] == lease)
        _hold(served == costs, f"served total {served} is not the sum of final receipts {costs}")
        _hold(cumulative == vouchers[lease], "the highest voucher is not the one kept")
        _hold(evidence.paid.get(lease, 0) <= cumulative, "a voucher that was taken is not in the ledger")
        _hold(evidence.paid.get(lease, 0) <= costs, "more was paid than was served")
        _hold(evidence.settled.get(lease, 0) <= cumulative, "the chain settled more than was signed for")
    finals = [found for found in rows if found["final"] == "true"]
    _hold(places == list(range(len(finals))), "final receipts do not stand one after another in the range")
    _check_anchors([digest(evidence.domain, found) for found in order], evidence.anchors)
    return len(finals)


def _check_requests(rows: Sequence[Fields], admitted: set[Key]) -> dict[Key, list[Fields]]:
    """Receipts by request, in the order of their parts."""
    by_request: dict[Key, list[Fields]] = defaultdict(list)
    for found in rows:
        by_request[bytes.fromhex(found["leaseId"][2:]), int(found["seq"])].append(found)
    _hold(set(by_request) <= admitted, "there is a receipt of a request that was never admitted")
    for key in admitted:
        parts = sorted(by_request[key], key=lambda found: int(found["part"]))
        numbers = [int(found["part"]) for found in parts]
        _hold(numbers == list(range(len(parts))), f"request {key[1]} has the parts {numbers}")
        _hold([found["final"] for found in parts].count("true") == 1, f"request {key[1]} has not one final receipt")
        _hold(parts[-1]["final"] == "true", f"request {key[1]} has a part after its final receipt")
        costs = [int(found["cost"]) for found in parts]
        _hold(costs == sorted(costs), f"the costs of request {key[1]} fall")
        by_request[key] = parts
    return by_request


def _check_anchors(digests: list[bytes], anchors: Sequence[tuple[int, bytes]]) -> None:
    counts = [count for count, _ in anchors]
    _hold(counts == sorted(set(counts)), f"the chain's anchors have the counts {counts}")
    for count, root in anchors:
        _hold(count <= len(digests), f"an anchor is over {count} receipts, the ledger has {len(digests)}")
        _hold(range_root(digests[:count]) == root, f"the anchor over {count} receipts has another root")


def cost_of(parts: Sequence[Fields]) -> int:
    """Of the final receipt among them."""
    return sum(int(found["cost"]) for found in parts if found["final"] == "true")


def fields(text: str) -> Fields:
    """A signed message's text, taken apart."""
    return dict(pair.split("=", 1) for pair in text.split(";"))


def digest(domain: Domain, found: Fields) -> bytes:
    """The digest of a receipt, by eth-account."""
    values: dict[str, object] = {}
    for member in Receipt.MEMBERS:
        text = found[member.name]
        number = int(text) if text.isdigit() else text == "true"
        values[member.name] = bytes.fromhex(text[2:]) if text.startswith("0x") else number
    shape = typed_data(domain, Receipt(bytes(32), 0, 0, False, 0, 0, 0, 0, bytes(32), bytes(32), 0, 0, 0, bytes(32)))
    message = encode_typed_data(full_message={**shape, "message": values})
    return keccak(b"\x19" + message.version + message.header + message.body)


def range_root(digests: Sequence[bytes]) -> bytes:
    """By the definition: perfect trees, largest first, bagged from right to left."""
    if not digests:
        return bytes(32)
    peaks, start = [], 0
    for level in reversed(range(len(digests).bit_length())):
        if len(digests) >> level & 1:
            peaks.append(_tree(digests[start : start + (1 << level)]))
            start += 1 << level
    bag = peaks.pop()
    while peaks:
        bag = keccak(b"\x01" + peaks.pop() + bag)
    return keccak(b"\x02" + len(digests).to_bytes(8, "big") + bag)


def _tree(digests: Sequence[bytes]) -> bytes:
    if len(digests) == 1:
        return keccak(b"\x00" + digests[0])
    half = len(digests) // 2
    return keccak(b"\x01" + _tree(digests[:half]) + _tree(digests[half:]))


def _hold(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise Contradiction(otherwise)
