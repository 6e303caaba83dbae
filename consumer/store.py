"""Durable records of one gateway: leases, request numbers, vouchers, receipts. Written before anything is sent.

Amounts are decimal text in token base units. One thread uses a `Store` at a time. What is needed to send a request
again, its body included, is kept until the request's end is known and then erased.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from consumer.exceptions import StoreError
from consumer.records import Draft, LeaseRecord, Limits, OpenRequest, RequestState
from protocol.headers import (
    RequestContext,
    Signed,
    encode_request,
    parse_receipt,
    parse_request,
    parse_voucher,
)
from protocol.typed_data import Domain, Receipt, Voucher

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (
    lease_id BLOB PRIMARY KEY,
    details  TEXT NOT NULL,
    is_open  INTEGER NOT NULL,  -- 0 until the chain is known to have it
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
    state    TEXT NOT NULL,
    max_cost TEXT NOT NULL,
    owed     TEXT NOT NULL,     -- what this request is known to cost so far, or was prepaid
    limits   TEXT NOT NULL,     -- JSON: what its receipts are held against
    context  TEXT NOT NULL,     -- the request header
    voucher  TEXT,              -- the voucher that authorises it
    body     BLOB,
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


_OPEN = "state IN ('reserved', 'signed', 'admitted')"
__all__ = ["LeaseRecord", "Store"]


class Store:
    """Opened on one file, for one deployment."""

    def __init__(self, path: Path, domain: Domain) -> None:
        """Raises StoreError if the file is damaged, of another deployment or of another version."""
        identity = {"chain_id": str(domain.chain_id), "escrow": domain.escrow}
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables == 0:
                with self._transaction():
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                    self._db.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
            elif self._db.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
                raise StoreError(
                    f"{path} was written by another version of this program: use that version to close its leases, "
                    "then choose another data folder"
                )
            elif dict(self._db.execute("SELECT key, value FROM meta")) != identity:
                raise StoreError(
                    f"{path} belongs to another deployment: use that deployment's file, or choose another data folder"
                )
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{path} cannot be opened ({error}): check the folder and the disk, or restore the file"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def add_lease(self, record: LeaseRecord) -> None:
        """Keeps a lease that is about to be opened; adding it again changes nothing."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO leases VALUES (?, ?, 0, 0)", (record.lease_id, record.to_json()))

    def mark_open(self, lease_id: bytes) -> None:
        """The chain has the lease."""
        with self._transaction():
            self._db.execute("UPDATE leases SET is_open = 1 WHERE lease_id = ?", (lease_id,))

    def drop_lease(self, lease_id: bytes) -> None:
        """The chain will never have the lease: its opening was refused before anything was sent."""
        with self._transaction():
            self._db.execute("DELETE FROM leases WHERE lease_id = ? AND is_open = 0", (lease_id,))

    def lease(self, lease_id: bytes) -> LeaseRecord:
        """A lease. Raises StoreError."""
        row = self._db.execute("SELECT details FROM leases WHERE lease_id = ?", (lease_id,)).fetchone()
        if row is None:
            raise StoreError(f"lease 0x{lease_id.hex()} is not known here")
        return LeaseRecord.from_json(row[0])

    def leases(self, *, is_open: bool = True) -> list[LeaseRecord]:
        """All leases that are open on chain, or all whose opening is not known to have succeeded."""
        rows = self._db.execute("SELECT details FROM leases WHERE is_open = ?", (is_open,))
        return [LeaseRecord.from_json(row[0]) for row in rows]

    def owed(self, lease_id: bytes) -> int:
        """What all requests of a lease are known to cost so far."""
        return sum(int(row[0]) for row in self._db.execute("SELECT owed FROM requests WHERE lease_id = ?", (lease_id,)))

    def promised(self, lease_id: bytes) -> int:
        """What requests whose end is not known may still cost."""
        rows = self._db.execute(f"SELECT max_cost, owed FROM requests WHERE lease_id = ? AND {_OPEN}", (lease_id,))  # noqa: S608
        return sum(max(0, int(row[0]) - int(row[1])) for row in rows)

    def set_node_key(self, lease_id: bytes, node_key: str) -> None:
        """Notes that the provider signs with another key now."""
        with self._transaction():
            record = replace(self.lease(lease_id), node_key=node_key)
            self._db.execute("UPDATE leases SET details = ? WHERE lease_id = ?", (record.to_json(), lease_id))

    def reserve(self, lease_id: bytes, draft: Draft, now: int) -> RequestContext:
        """The next request number, never to be given again, for this one request."""
        with self._transaction():
            row = self._db.execute("SELECT next_seq FROM leases WHERE lease_id = ?", (lease_id,)).fetchone()
            if row is None:
                raise StoreError(f"lease 0x{lease_id.hex()} is not known here")
            context = RequestContext(int(row[0]), draft.request_hash, draft.max_cost, now, draft.salt)
            self._db.execute("UPDATE leases SET next_seq = next_seq + 1 WHERE lease_id = ?", (lease_id,))
            self._db.execute(
                "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?)",
                (
                    lease_id,
                    context.seq,
                    RequestState.RESERVED,
                    str(draft.max_cost),
                    str(draft.prepaid),
                    json.dumps(asdict(draft.limits)),
                    encode_request(context),
                    draft.body,
                ),
            )
            return context

    def admitted(self, lease_id: bytes, seq: int) -> None:
        """The provider began to answer."""
        with self._transaction():
            self._move(lease_id, seq, RequestState.ADMITTED)

    def release(self, lease_id: bytes, seq: int) -> None:
        """A request that the provider did not take costs nothing."""
        with self._transaction():
            self._owe(lease_id, seq, 0)
            self._move(lease_id, seq, RequestState.REFUSED)

    def dispute(self, lease_id: bytes, seq: int) -> None:
        """Nothing more is signed for a request, beyond what is owed for it already."""
        with self._transaction():
            self._move(lease_id, seq, RequestState.DISPUTED)

    def state(self, lease_id: bytes, seq: int) -> RequestState:
        """How far a request got. Raises StoreError."""
        row = self._db.execute("SELECT state FROM requests WHERE lease_id = ? AND seq = ?", (lease_id, seq)).fetchone()
        if row is None:
            raise StoreError(f"request {seq} of lease 0x{lease_id.hex()} is not known here")
        return RequestState(row[0])

    def unfinished(self, lease_id: bytes) -> list[OpenRequest]:
        """Requests whose end is not known, in their order."""
        rows = self._db.execute(
            f"SELECT seq, state, limits, context, voucher, body FROM requests WHERE lease_id = ? AND {_OPEN} "  # noqa: S608
            "ORDER BY seq",
            (lease_id,),
        ).fetchall()
        return [
            OpenRequest(
                state=RequestState(state),
                context=parse_request(context),
                limits=Limits(**json.loads(limits)),
                voucher=parse_voucher(voucher) if voucher else None,
                body=bytes(body),
                last=self._last_receipt(lease_id, seq),
            )
            for seq, state, limits, context, voucher, body in rows
        ]

    def record_receipt(self, signed: Signed[Receipt], owed: int | None = None) -> None:
        """Keeps a checked receipt; its cost, or `owed` where that is given, is owed from now on."""
        receipt = signed.message
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?)",
                (receipt.lease_id, receipt.seq, receipt.part, signed.encode()),
            )
            self._owe(receipt.lease_id, receipt.seq, receipt.cost if owed is None else owed)
            if receipt.final:
                self._move(receipt.lease_id, receipt.seq, RequestState.SETTLED)

    def final_receipt(self, lease_id: bytes, seq: int) -> Signed[Receipt] | None:
        """The last receipt of a request that is final."""
        row = self._db.execute(
            "SELECT signed FROM receipts JOIN requests USING (lease_id, seq) WHERE lease_id = ? AND seq = ? "
            "AND state = ? ORDER BY part DESC LIMIT 1",
            (lease_id, seq, RequestState.SETTLED),
        ).fetchone()
        return parse_receipt(row[0]) if row else None

    def highest_voucher(self, lease_id: bytes) -> Signed[Voucher] | None:
        """The highest voucher ever signed."""
        row = self._db.execute(
            "SELECT signed FROM vouchers WHERE lease_id = ? ORDER BY id DESC LIMIT 1", (lease_id,)
        ).fetchone()
        return parse_voucher(row[0]) if row else None

    def record_voucher(self, signed: Signed[Voucher], seq: int | None = None) -> None:
        """Keeps a voucher; `seq` is the request that it authorises. Raises StoreError on one lower than before."""
        voucher = signed.message
        with self._transaction():
            highest = self.highest_voucher(voucher.lease_id)
            if highest is not None and voucher.cumulative < highest.message.cumulative:
                raise StoreError("a voucher may not be lower than the one before")
            self._db.execute(
                "INSERT INTO vouchers (lease_id, cumulative, signed) VALUES (?, ?, ?)",
                (voucher.lease_id, str(voucher.cumulative), signed.encode()),
            )
            if seq is not None:
                changed = self._db.execute(
                    "UPDATE requests SET voucher = ?, state = ? WHERE lease_id = ? AND seq = ? AND state = ?",
                    (signed.encode(), RequestState.SIGNED, voucher.lease_id, seq, RequestState.RESERVED),
                )
                if changed.rowcount != 1:
                    raise StoreError(f"request {seq} has its voucher already")

    def _last_receipt(self, lease_id: bytes, seq: int) -> Signed[Receipt] | None:
        row = self._db.execute(
            "SELECT signed FROM receipts WHERE lease_id = ? AND seq = ? ORDER BY part DESC LIMIT 1", (lease_id, seq)
        ).fetchone()
        return parse_receipt(row[0]) if row else None

    def _owe(self, lease_id: bytes, seq: int, owed: int) -> None:
        self._db.execute(
            f"UPDATE requests SET owed = ? WHERE lease_id = ? AND seq = ? AND {_OPEN}",  # noqa: S608
            (str(owed), lease_id, seq),
        )

    def _move(self, lease_id: bytes, seq: int, state: RequestState) -> None:
        """To another state, from an open one only."""
        keeps_body = state in (RequestState.SIGNED, RequestState.ADMITTED)
        self._db.execute(
            f"UPDATE requests SET state = ?, body = CASE WHEN ? THEN body END "  # noqa: S608
            f"WHERE lease_id = ? AND seq = ? AND {_OPEN}",
            (state, keeps_body, lease_id, seq),
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
