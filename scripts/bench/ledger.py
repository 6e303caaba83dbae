"""A ledger of ten million final receipts: appending, proving and opening, against plain SQLite in the same run.

The file is built once with the ledger's own schema and kept in the user's cache folder (about 9.4 GB, which takes a
quarter of an hour, and as much again while measuring); CLAWMARKET_LEDGER_RECEIPTS builds one of another size. It is
filled in bulk: real digests under a real merkle range, receipts of real length whose signatures nobody checks. What is
measured then goes through `Ledger`, every commit synced.

Peers: appending the same row to a table of an equally large file without totals or merkle nodes, and recomputing the
root of a proof from all leaves, measured at a smaller size and scaled up.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from protocol.headers import Signed
from protocol.merkle import Peaks, leaf_hash, node_hash, verify_inclusion
from protocol.signing import Signature, Signer
from protocol.typed_data import Domain, Receipt, Voucher, digest
from provider.ledger import AdmittedRequest, Ledger
from provider.ledger_schema import create
from scripts.bench.report import Report

RECEIPTS = int(os.environ.get("CLAWMARKET_LEDGER_RECEIPTS", "10000000"))
LEASES = 5_000
CHUNK = 20_000
BYTES_EACH = 1_150
APPENDS = 3_000
PROOFS = 1_000
NAIVE_LEAVES = 20_000
DOMAIN = Domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
PROVIDER = 1
OWNER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
SENT_AT = 1_800_000_000
FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "clawmarket" / "bench"


def _lease(number: int) -> bytes:
    return hashlib.sha256(b"lease %d" % (number % LEASES)).digest()


def _receipt(number: int) -> Receipt:
    """The receipt at this position: leases take turns."""
    request_hash = hashlib.sha256(b"request %d" % number).digest()
    return Receipt(
        lease_id=_lease(number),
        seq=number // LEASES,
        part=0,
        final=True,
        cost=12_000 + number % 997,
        units_in=800,
        units_out=250,
        units_cached=120,
        request_hash=request_hash,
        response_hash=request_hash[::-1],
        ttft_ms=180,
        duration_ms=2_400,
        ended_at=SENT_AT + number,
        model_fingerprint=_lease(0),
    )


def _signature(receipt: Receipt) -> Signature:
    """Of the right form and length; it is no key's."""
    return Signature(
        int.from_bytes(receipt.request_hash, "big") >> 1 | 1, int.from_bytes(receipt.response_hash, "big") >> 2 | 1, 27
    )


class _Nodes:
    """The range while it is built: the rows of nodes that an append adds."""

    def __init__(self) -> None:
        self._left: dict[int, bytes] = {}
        self.rows: list[tuple[int, int, bytes]] = []

    def append(self, position: int, leaf_digest: bytes) -> None:
        node, level = leaf_hash(leaf_digest), 0
        self.rows.append((0, position, node))
        while position & 1:
            node = node_hash(self._left[level], node)
            level, position = level + 1, position >> 1
            self.rows.append((level, position, node))
        self._left[level] = node


def _built(path: Path) -> Path:
    """The file, built first if it is not there."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(path.parent).free, 2 * RECEIPTS * BYTES_EACH
    if free < needed:
        raise OSError(f"{path.parent} has {free >> 20} MiB free and the benchmark needs {needed >> 20} MiB")
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -1000000")
        identity = {"chain_id": str(DOMAIN.chain_id), "escrow": DOMAIN.escrow, "provider": str(PROVIDER)}
        create(db, identity)
        _fill(db)
    partial.rename(path)
    return path


def _fill(db: sqlite3.Connection) -> None:
    started = time.monotonic()
    nodes = _Nodes()
    served = [0] * LEASES
    for first in range(0, RECEIPTS, CHUNK):
        requests, receipts = [], []
        for number in range(first, min(first + CHUNK, RECEIPTS)):
            message = _receipt(number)
            hashed = digest(DOMAIN, message)
            nodes.append(number, hashed)
            key = (message.lease_id, message.seq)
            requests.append((*key, message.request_hash, "20000", message.ended_at))
            text = Signed(message, _signature(message)).encode()
            receipts.append((*key, 0, str(message.cost), hashed, number, text))
            served[number % LEASES] += message.cost
        db.execute("BEGIN")
        db.executemany("INSERT INTO requests VALUES (?, ?, ?, ?, ?)", requests)
        db.executemany(
            "INSERT INTO receipts (lease_id, seq, part, cost, digest, position, signed) VALUES (?, ?, ?, ?, ?, ?, ?)",
            receipts,
        )
        db.executemany("INSERT INTO nodes VALUES (?, ?, ?)", nodes.rows)
        db.execute("COMMIT")
        nodes.rows.clear()
        if sys.stderr.isatty() or first % (50 * CHUNK) == 0:
            done = min(first + CHUNK, RECEIPTS)
            left = (time.monotonic() - started) / done * (RECEIPTS - done)
            print(f"\rbuilding: {done:,} of {RECEIPTS:,} receipts, {left:.0f} s left ", end="", file=sys.stderr)
    print(file=sys.stderr)
    _fill_accounts(db, served)


def _fill_accounts(db: sqlite3.Connection, served: list[int]) -> None:
    """One voucher a lease that pays all, a tenth of the leases settled in full."""
    signer = Signer(b"\x02" * 32)
    db.execute("BEGIN")
    total = 0
    for number, cost in enumerate(served):
        voucher = Voucher(_lease(number), cost, bytes(32))
        signed = Signed(voucher, signer.sign(DOMAIN, voucher)).encode()
        settled = cost if number % 10 == 0 else 0
        total += settled
        db.execute(
            "INSERT INTO vouchers (lease_id, cumulative, signed, stored_at) VALUES (?, ?, ?, ?)",
            (_lease(number), str(cost), signed, SENT_AT),
        )
        row = (_lease(number), OWNER, str(cost), str(cost), str(settled), (RECEIPTS - 1 - number) // LEASES)
        db.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?, 0, ?, 0)", (*row, cost > settled))
    db.execute("INSERT INTO owners VALUES (?, ?)", (OWNER, str(total)))
    db.execute("COMMIT")


def _time_ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def _appends(ledger: Ledger, numbers: Iterator[int]) -> list[float]:
    """Milliseconds of each final receipt, committed; its request was admitted before."""
    signer = Signer(b"\x01" * 32)
    times = []
    for number in itertools.islice(numbers, APPENDS):
        message = _receipt(number)
        voucher = Voucher(message.lease_id, 0, bytes(32))
        request = AdmittedRequest(message.lease_id, message.seq, message.request_hash, 20_000, SENT_AT)
        ledger.admit(request, Signed(voucher, _signature(message)), OWNER, SENT_AT)
        signed = Signed(message, signer.sign(DOMAIN, message))
        times.append(_time_ms(lambda signed=signed: ledger.record_receipt(signed)))  # type: ignore[misc]
    return times


def _peer_appends(path: Path, numbers: Iterator[int]) -> list[float]:
    """The same rows into the same table of a file as large, and nothing else in the transaction."""
    times = []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        for number in itertools.islice(numbers, APPENDS):
            message = _receipt(number)
            text = Signed(message, _signature(message)).encode()
            row = (message.lease_id, message.seq, 0, str(message.cost), message.request_hash, number, text)

            def insert(row: tuple[object, ...] = row) -> None:
                db.execute("BEGIN IMMEDIATE")
                db.execute(
                    "INSERT INTO receipts (lease_id, seq, part, cost, digest, position, signed) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
                db.execute("COMMIT")

            times.append(_time_ms(insert))
    return times


def _prove(ledger: Ledger, position: int) -> None:
    """What the worker does for one proof, given lease and number of a request."""
    message = _receipt(position)
    found = ledger.position(message.lease_id, message.seq)
    if found != position:
        raise AssertionError("the ledger has another position")
    ledger.inclusion_proof(position, ledger.count)
    ledger.root(ledger.count)


def _check_proof(ledger: Ledger, position: int) -> None:
    proof = ledger.inclusion_proof(position, ledger.count)
    verify_inclusion(digest(DOMAIN, _receipt(position)), position, ledger.count, proof, ledger.root())


def _naive_root_ms() -> float:
    """The root over all leaves recomputed, at `RECEIPTS` leaves: linear in them."""
    leaves = [hashlib.sha256(b"%d" % number).digest() for number in range(NAIVE_LEAVES)]

    def recompute() -> None:
        peaks = Peaks()
        for leaf in leaves:
            peaks.append(leaf)
        peaks.root()

    return _time_ms(recompute) / NAIVE_LEAVES * RECEIPTS


def _quantile(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def run() -> Report:
    """Measure on copies, so that the kept file stays as it was built; raises if a proof is wrong."""
    built = _built(FOLDER / f"ledger-2-{RECEIPTS}.sqlite")
    path = built.with_suffix(".copy")
    try:
        shutil.copyfile(built, path)
        with closing(Ledger(path, DOMAIN, PROVIDER)):
            pass  # the first opening turns the file to WAL
        opens = []
        for _ in range(20):
            started = time.perf_counter()
            ledger = Ledger(path, DOMAIN, PROVIDER)
            opens.append(time.perf_counter() - started)
            ledger.close()
        chosen = random.Random(1)  # noqa: S311 - positions, no secrets
        with closing(Ledger(path, DOMAIN, PROVIDER)) as ledger:
            positions = [chosen.randrange(RECEIPTS) for _ in range(PROOFS)]
            proofs = [_time_ms(lambda position=position: _prove(ledger, position)) for position in positions]  # type: ignore[misc]
            for position in positions[:50]:
                _check_proof(ledger, position)
            numbers = itertools.count(RECEIPTS)
            appends = _appends(ledger, numbers)
            _check_proof(ledger, RECEIPTS + APPENDS - 1)
            per_request = _time_ms(lambda: [ledger.settled_with(OWNER) for _ in range(100)]) / 100
            unsettled = _time_ms(ledger.unsettled)
        peer = _peer_appends(path, numbers)
    finally:
        for name in ("", "-wal", "-shm"):
            Path(f"{path}{name}").unlink(missing_ok=True)
    naive = _naive_root_ms()
    p50 = statistics.median(appends)
    return Report(
        columns=("", "ms", "goal"),
        rows=[
            ("append a final receipt, median", p50, "≤ 1"),
            ("append, 99th percentile", _quantile(appends, 0.99), ""),
            ("  peer: insert and commit the row alone, median", statistics.median(peer), ""),
            ("  peer, 99th percentile", _quantile(peer, 0.99), ""),
            ("position, proof and root, median", statistics.median(proofs), "≤ 5"),
            ("proof, 99th percentile", _quantile(proofs, 0.99), ""),
            ("  peer: recompute the root from all leaves", naive, ""),
            ("open the file", 1e3 * statistics.median(opens), ""),
            ("settled with an owner, per request", per_request, ""),
            (f"leases to settle ({LEASES} leases), per tick", unsettled, ""),
        ],
        figures={
            "receipts": RECEIPTS,
            "file_mib": built.stat().st_size >> 20,
            "append_ms_p50": round(p50, 3),
            "append_ms_p99": round(_quantile(appends, 0.99), 3),
            "proof_ms_p50": round(statistics.median(proofs), 3),
            "open_s": round(statistics.median(opens), 4),
            "peer_append_ms_p50": round(statistics.median(peer), 3),
            "peer_append_ms_p99": round(_quantile(peer, 0.99), 3),
            "peer_naive_root_ms": round(naive),
            "ratio_to_plain_insert": round(p50 / statistics.median(peer), 2),
        },
        notes=[
            f"{RECEIPTS:,} receipts of {LEASES:,} leases, {built.stat().st_size >> 20:,} MiB; "
            f"{APPENDS} appends, {PROOFS} proofs",
            f"the naive root is measured over {NAIVE_LEAVES:,} leaves in memory and scaled up",
        ],
    )
