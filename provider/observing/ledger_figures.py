"""The ledger's figures, read beside the worker: a connection of its own that never waits for, nor delays, a commit."""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from protocol.headers import parse_receipt
from provider.exceptions import LedgerError

MIN_FREE_BYTES = 64 * 1024 * 1024
"""With less room on its disk the ledger counts as about to fail."""


@dataclass(frozen=True)
class OpenAccount:
    """A lease that owes, or has vouchers to settle. Amounts in token base units, `since` in Unix seconds."""

    lease_id: bytes
    unpaid: int
    unsettled: int
    since: int


@dataclass(frozen=True)
class LedgerFigures:
    """Amounts in token base units, times in Unix seconds; `anchored` receipts are under a root known to be final.

    `unanchored_since` is the end of the oldest request whose receipt is not, 0 if all are.
    """

    receipts: int
    unfinished: int
    settled: int
    accounts: tuple[OpenAccount, ...]
    signed: int
    anchored: int
    unanchored_since: int


def read_ledger(path: Path) -> LedgerFigures:
    """Raises LedgerError if the file is missing or cannot be read. Blocks."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2)) as db:
            db.execute("BEGIN")
            return _read(db)
    except sqlite3.Error as error:
        raise LedgerError(f"ledger {path} cannot be read: {error}") from error


def room_fault(path: Path) -> str | None:
    """Why the ledger cannot be written where it lies, if that can be seen from outside."""
    if not os.access(path, os.W_OK):
        return f"the ledger {path} is not writable"
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < MIN_FREE_BYTES:
        return f"only {free // 1024**2} MiB are free on the ledger's disk"
    return None


def _read(db: sqlite3.Connection) -> LedgerFigures:
    (receipts,) = db.execute(
        "SELECT coalesce(max(position) + 1, 0) FROM receipts WHERE position IS NOT NULL"
    ).fetchone()
    (unfinished,) = db.execute("SELECT count(*) FROM open_requests").fetchone()
    settled = sum(int(row[0]) for row in db.execute("SELECT settled FROM owners"))
    signed = db.execute("SELECT count FROM anchors ORDER BY count DESC LIMIT 1").fetchone()
    (anchored,) = db.execute("SELECT coalesce(max(count), 0) FROM confirmed_anchors").fetchone()
    oldest = db.execute("SELECT signed FROM receipts WHERE position = ?", (anchored,)).fetchone()
    rows = db.execute(
        "SELECT lease_id, served, cumulative, settled, is_unsettled FROM accounts WHERE is_unsettled = 1 "
        "UNION SELECT lease_id, served, cumulative, settled, is_unsettled FROM accounts WHERE is_unpaid = 1"
    ).fetchall()
    accounts = tuple(
        OpenAccount(
            lease_id,
            max(0, int(served) - int(cumulative)),
            int(cumulative) - int(settled) if is_unsettled else 0,
            _since(db, lease_id) if is_unsettled else 0,
        )
        for lease_id, served, cumulative, settled, is_unsettled in rows
    )
    return LedgerFigures(
        receipts=receipts,
        unfinished=unfinished,
        settled=settled,
        accounts=accounts,
        signed=signed[0] if signed else 0,
        anchored=anchored,
        unanchored_since=parse_receipt(oldest[0]).message.ended_at if oldest else 0,
    )


def _since(db: sqlite3.Connection, lease_id: bytes) -> int:
    """When the oldest voucher came that is not settled."""
    last = db.execute(
        "SELECT settled_at FROM settlements WHERE lease_id = ? ORDER BY id DESC LIMIT 1", (lease_id,)
    ).fetchone()
    first = db.execute(
        "SELECT min(stored_at) FROM vouchers WHERE lease_id = ? AND stored_at >= ?", (lease_id, last[0] if last else 0)
    ).fetchone()
    return int(first[0] or 0)
