"""Durable records of one gateway: leases, request numbers, vouchers, receipts. Written before anything is sent.

Amounts are decimal text in token base units. One thread uses a `Store` at a time.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consumer.exceptions import StoreError
from consumer.offers import terms_from_json, terms_to_json
from protocol.headers import Signed, parse_receipt, parse_voucher
from protocol.typed_data import Domain, Receipt, Terms, Voucher

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (
    lease_id BLOB PRIMARY KEY,
    details  TEXT NOT NULL,
    next_seq INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE vouchers (
    id         INTEGER PRIMARY KEY,
    lease_id   BLOB NOT NULL,
    cumulative TEXT NOT NULL,
    signed     TEXT NOT NULL
);
CREATE INDEX vouchers_by_lease ON vouchers (lease_id, id);
CREATE TABLE requests (
    lease_id BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    max_cost TEXT NOT NULL,
    owed     TEXT NOT NULL,     -- what this request is known to cost so far, or was prepaid
    is_final INTEGER NOT NULL,
    PRIMARY KEY (lease_id, seq)
) WITHOUT ROWID;
CREATE TABLE receipts (
    lease_id BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    part     INTEGER NOT NULL,
    signed   TEXT NOT NULL,
    PRIMARY KEY (lease_id, seq, part)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class LeaseRecord:
    """Everything needed to use a lease. `key_file` holds the session key; `fingerprint` is the model's."""

    lease_id: bytes
    owner: str
    provider: int
    offer_id: int
    version: int
    token: str
    deposit: int
    expiry: int
    signer: str
    key_file: str
    endpoint: str
    node_key: str
    model: str
    fingerprint: bytes
    terms: Terms

    def to_json(self) -> str:
        """The record as text."""
        content = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in vars(self).items()
            if name != "terms"
        }
        return json.dumps({**content, "terms": terms_to_json(self.terms)})

    @classmethod
    def from_json(cls, text: str) -> "LeaseRecord":
        """The reverse of `to_json`."""
        content: dict[str, Any] = json.loads(text)
        content["terms"] = terms_from_json(content["terms"])
        for name in ("lease_id", "fingerprint"):
            content[name] = bytes.fromhex(content[name])
        return cls(**content)


class Store:
    """Opened on one file, for one deployment."""

    def __init__(self, path: Path, domain: Domain) -> None:
        """Raises StoreError if the file is damaged or of another deployment."""
        identity = {"chain_id": str(domain.chain_id), "escrow": domain.escrow}
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables == 0:
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
            elif dict(self._db.execute("SELECT key, value FROM meta")) != identity:
                raise StoreError(f"{path} belongs to another deployment")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} cannot be opened: {error}") from error

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def add_lease(self, record: LeaseRecord) -> None:
        """Keeps a lease; adding it again changes nothing."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO leases VALUES (?, ?, 0)", (record.lease_id, record.to_json()))

    def lease(self, lease_id: bytes) -> LeaseRecord:
        """A lease. Raises StoreError."""
        row = self._db.execute("SELECT details FROM leases WHERE lease_id = ?", (lease_id,)).fetchone()
        if row is None:
            raise StoreError(f"lease 0x{lease_id.hex()} is not known here")
        return LeaseRecord.from_json(row[0])

    def leases(self) -> list[LeaseRecord]:
        """All leases."""
        return [LeaseRecord.from_json(row[0]) for row in self._db.execute("SELECT details FROM leases")]

    def owed(self, lease_id: bytes) -> int:
        """What all requests of a lease are known to cost so far."""
        return sum(int(row[0]) for row in self._db.execute("SELECT owed FROM requests WHERE lease_id = ?", (lease_id,)))

    def promised(self, lease_id: bytes) -> int:
        """What running requests may still cost."""
        rows = self._db.execute("SELECT max_cost, owed FROM requests WHERE lease_id = ? AND is_final = 0", (lease_id,))
        return sum(max(0, int(row[0]) - int(row[1])) for row in rows)

    def reserve(self, lease_id: bytes, max_cost: int, prepaid: int) -> int:
        """The next request number, never to be given again."""
        with self._transaction():
            row = self._db.execute("SELECT next_seq FROM leases WHERE lease_id = ?", (lease_id,)).fetchone()
            if row is None:
                raise StoreError(f"lease 0x{lease_id.hex()} is not known here")
            self._db.execute("UPDATE leases SET next_seq = next_seq + 1 WHERE lease_id = ?", (lease_id,))
            self._db.execute(
                "INSERT INTO requests VALUES (?, ?, ?, ?, 0)", (lease_id, row[0], str(max_cost), str(prepaid))
            )
            return int(row[0])

    def release(self, lease_id: bytes, seq: int) -> None:
        """A request that the provider refused costs nothing."""
        with self._transaction():
            self._db.execute(
                "UPDATE requests SET owed = '0', is_final = 1 WHERE lease_id = ? AND seq = ?", (lease_id, seq)
            )

    def record_receipt(self, signed: Signed[Receipt]) -> None:
        """Keeps a checked receipt; its cost is owed from now on."""
        receipt = signed.message
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?)",
                (receipt.lease_id, receipt.seq, receipt.part, signed.encode()),
            )
            self._db.execute(
                "UPDATE requests SET owed = ?, is_final = ? WHERE lease_id = ? AND seq = ?",
                (str(receipt.cost), int(receipt.final), receipt.lease_id, receipt.seq),
            )

    def final_receipt(self, lease_id: bytes, seq: int) -> Signed[Receipt] | None:
        """The last receipt of a request that is final."""
        row = self._db.execute(
            "SELECT signed FROM receipts JOIN requests USING (lease_id, seq) WHERE lease_id = ? AND seq = ? "
            "AND is_final = 1 ORDER BY part DESC LIMIT 1",
            (lease_id, seq),
        ).fetchone()
        return parse_receipt(row[0]) if row else None

    def highest_voucher(self, lease_id: bytes) -> Signed[Voucher] | None:
        """The highest voucher ever signed."""
        row = self._db.execute(
            "SELECT signed FROM vouchers WHERE lease_id = ? ORDER BY id DESC LIMIT 1", (lease_id,)
        ).fetchone()
        return parse_voucher(row[0]) if row else None

    def record_voucher(self, signed: Signed[Voucher]) -> None:
        """Keeps a voucher. Raises StoreError on one lower than before."""
        voucher = signed.message
        with self._transaction():
            highest = self.highest_voucher(voucher.lease_id)
            if highest is not None and voucher.cumulative < highest.message.cumulative:
                raise StoreError("a voucher may not be lower than the one before")
            self._db.execute(
                "INSERT INTO vouchers (lease_id, cumulative, signed) VALUES (?, ?, ?)",
                (voucher.lease_id, str(voucher.cumulative), signed.encode()),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(f"the records cannot be written: {error}") from error
            raise
