"""The usage ledger: every voucher, request, receipt and anchor, in SQLite, durable before anything leaves the worker.

A receipt is committed with its signature before it is sent and is re-sent from here, never signed again. The merkle
mountain range over final receipts grows in the same transaction as the receipt. One thread uses a `Ledger` at a time.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from protocol.headers import SEQ_WINDOW, Signed, parse_anchor, parse_receipt, parse_voucher
from protocol.merkle import MountainRange
from protocol.typed_data import Anchor, Domain, Receipt, Voucher, digest
from provider.exceptions import LedgerError
from provider.ledger_schema import SCHEMA, SCHEMA_VERSION


@dataclass(frozen=True)
class StoredAnchor:
    """A signed anchor and the one it follows (0 and zero bytes for the first)."""

    signed: Signed[Anchor]
    prev_count: int
    prev_root: bytes


@dataclass(frozen=True)
class AdmittedRequest:
    """A request the worker has taken on: it owes exactly one final receipt. `max_cost` in token base units."""

    lease_id: bytes
    seq: int
    request_hash: bytes
    max_cost: int
    sent_at: int


@dataclass(frozen=True)
class Account:
    """Totals of one lease in token base units: highest voucher, sum of final receipts' costs, settled on chain."""

    owner: str = ""
    cumulative: int = 0
    served: int = 0
    settled: int = 0
    highest_seq: int = -1


class Ledger:
    """Opened on one file, for one deployment and provider."""

    def __init__(self, path: Path, domain: Domain, provider: int) -> None:
        """Opens or creates the file. Raises LedgerError if it is damaged or of another deployment or provider."""
        self._domain = domain
        self._provider = provider
        try:
            self._db = sqlite3.connect(str(path), isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._create()
            self._check_identity(path)
            (count,) = self._db.execute("SELECT count(*) FROM leaves").fetchone()
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"ledger {path} cannot be opened: {error}") from error
        self._range = MountainRange(_SqliteNodes(self._db), count)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    # --- accounts and vouchers

    def account(self, lease_id: bytes) -> Account:
        """The lease's totals; zeros for one never seen."""
        row = self._db.execute(
            "SELECT owner, cumulative, served, settled, highest_seq FROM accounts WHERE lease_id = ?", (lease_id,)
        ).fetchone()
        return Account(row[0], int(row[1]), int(row[2]), int(row[3]), row[4]) if row else Account()

    def leases(self) -> list[bytes]:
        """Every lease that ever gave a voucher."""
        return [row[0] for row in self._db.execute("SELECT lease_id FROM accounts")]

    def unsettled(self) -> list[bytes]:
        """Leases whose highest voucher is above what the chain has settled."""
        rows = self._db.execute("SELECT lease_id, cumulative, settled FROM accounts")
        return [row[0] for row in rows if int(row[1]) > int(row[2])]

    def settled_with(self, owner: str) -> int:
        """What the chain has settled on all leases of an owner with this provider."""
        rows = self._db.execute("SELECT settled FROM accounts WHERE owner = ?", (owner,))
        return sum(int(row[0]) for row in rows)

    def unpaid_of(self, owner: str) -> dict[bytes, int]:
        """By lease, how far the served value of an owner's leases is above their highest vouchers; only where it is."""
        rows = self._db.execute("SELECT lease_id, served, cumulative FROM accounts WHERE owner = ?", (owner,))
        return {row[0]: int(row[1]) - int(row[2]) for row in rows if int(row[1]) > int(row[2])}

    def highest_voucher(self, lease_id: bytes) -> Signed[Voucher] | None:
        """The voucher to settle with."""
        row = self._db.execute(
            "SELECT signed FROM vouchers WHERE lease_id = ? ORDER BY id DESC LIMIT 1", (lease_id,)
        ).fetchone()
        return parse_voucher(row[0]) if row else None

    def record_voucher(self, signed: Signed[Voucher], owner: str, now: int) -> bool:
        """Keeps a voucher if it is higher than all before; returns whether it was."""
        with self._transaction():
            return self._raise_voucher(signed, owner, now)

    # --- requests

    def request(self, lease_id: bytes, seq: int) -> AdmittedRequest | None:
        """An admitted request."""
        row = self._db.execute(
            "SELECT request_hash, max_cost, sent_at FROM requests WHERE lease_id = ? AND seq = ?", (lease_id, seq)
        ).fetchone()
        return AdmittedRequest(lease_id, seq, row[0], int(row[1]), row[2]) if row else None

    def admit(self, request: AdmittedRequest, signed: Signed[Voucher], owner: str, now: int) -> None:
        """Records a request and the voucher that authorises it. Raises LedgerError if its seq is used or too old."""
        with self._transaction():
            account = self.account(request.lease_id)
            if request.seq <= account.highest_seq - SEQ_WINDOW:
                raise LedgerError(f"seq {request.seq} is more than {SEQ_WINDOW} behind {account.highest_seq}")
            try:
                self._db.execute(
                    "INSERT INTO requests VALUES (?, ?, ?, ?, ?)",
                    (request.lease_id, request.seq, request.request_hash, str(request.max_cost), request.sent_at),
                )
            except sqlite3.IntegrityError as error:
                raise LedgerError(f"seq {request.seq} is used") from error
            self._raise_voucher(signed, owner, now)
            account = self.account(request.lease_id)
            self._write_account(
                request.lease_id, replace(account, owner=owner, highest_seq=max(request.seq, account.highest_seq))
            )

    def unfinished(self) -> list[AdmittedRequest]:
        """Admitted requests without a final receipt: after a start, those that a crash interrupted."""
        rows = self._db.execute(
            "SELECT lease_id, seq, request_hash, max_cost, sent_at FROM requests AS r WHERE NOT EXISTS "
            "(SELECT 1 FROM receipts AS f WHERE f.lease_id = r.lease_id AND f.seq = r.seq AND f.final = 1)"
        )
        return [AdmittedRequest(row[0], row[1], row[2], int(row[3]), row[4]) for row in rows]

    # --- receipts

    def record_receipt(self, signed: Signed[Receipt]) -> None:
        """Commits a receipt; a final one also becomes a leaf and counts as served.

        Raises LedgerError if the request was not admitted, is already final, or the part exists.
        """
        receipt = signed.message
        with self._transaction():
            if self.request(receipt.lease_id, receipt.seq) is None:
                raise LedgerError(f"seq {receipt.seq} was never admitted")
            if self.final_receipt(receipt.lease_id, receipt.seq) is not None:
                raise LedgerError(f"seq {receipt.seq} already has its final receipt")
            receipt_digest = digest(self._domain, receipt)
            try:
                self._db.execute(
                    "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        receipt.lease_id,
                        receipt.seq,
                        receipt.part,
                        int(receipt.final),
                        str(receipt.cost),
                        receipt_digest,
                        signed.encode(),
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise LedgerError(f"part {receipt.part} of seq {receipt.seq} exists") from error
            if receipt.final:
                self._append_leaf(receipt, receipt_digest)

    def final_receipt(self, lease_id: bytes, seq: int) -> Signed[Receipt] | None:
        """The final receipt of a request, as it was signed."""
        return self._receipt(lease_id, seq, only_final=True)

    def last_receipt(self, lease_id: bytes, seq: int) -> Signed[Receipt] | None:
        """The latest receipt of a request, final or not."""
        return self._receipt(lease_id, seq, only_final=False)

    # --- the merkle mountain range

    @property
    def count(self) -> int:
        """How many final receipts there are."""
        return self._range.count

    def root(self, count: int | None = None) -> bytes:
        """The root over the first `count` final receipts (all by default)."""
        return self._range.root(count)

    def position(self, lease_id: bytes, seq: int) -> int | None:
        """Where a final receipt stands among all, from 0."""
        row = self._db.execute("SELECT position FROM leaves WHERE lease_id = ? AND seq = ?", (lease_id, seq)).fetchone()
        return int(row[0]) if row else None

    def inclusion_proof(self, position: int, count: int) -> list[bytes]:
        """Proof of the final receipt at `position` under the root over the first `count`."""
        return self._range.inclusion_proof(position, count)

    # --- anchors

    def record_anchor(self, stored: StoredAnchor, now: int) -> None:
        """Keeps a signed anchor, so that one count never gets two."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO anchors VALUES (?, ?, ?, ?, ?)",
                (stored.signed.message.count, stored.prev_count, stored.prev_root, stored.signed.encode(), now),
            )

    def replace_anchor(self, stored: StoredAnchor) -> None:
        """Keeps another signature of an anchor, after the node key was rotated. Raises LedgerError if it differs."""
        anchor = stored.signed.message
        with self._transaction():
            last = self.last_anchor()
            if last is None or (last.signed.message, last.prev_count, last.prev_root) != (
                anchor,
                stored.prev_count,
                stored.prev_root,
            ):
                raise LedgerError(f"anchor {anchor.count} differs from the one that was signed")
            self._db.execute("UPDATE anchors SET signed = ? WHERE count = ?", (stored.signed.encode(), anchor.count))

    def confirm_anchor(self, count: int) -> None:
        """Notes that the anchor of this count is on chain."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO confirmed_anchors VALUES (?)", (count,))

    def last_anchor(self, *, confirmed: bool = False) -> StoredAnchor | None:
        """The latest signed anchor, or the latest known to be on chain."""
        row = self._db.execute(
            "SELECT signed, prev_count, prev_root FROM anchors "
            "WHERE NOT ? OR count IN (SELECT count FROM confirmed_anchors) ORDER BY count DESC LIMIT 1",
            (confirmed,),
        ).fetchone()
        return StoredAnchor(parse_anchor(row[0]), row[1], row[2]) if row else None

    # --- settlements

    def record_settlement(self, lease_id: bytes, cumulative: int, now: int) -> None:
        """Notes that the chain has settled a lease up to `cumulative`."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO settlements (lease_id, cumulative, settled_at) VALUES (?, ?, ?)",
                (lease_id, str(cumulative), now),
            )
            self._write_account(lease_id, replace(self.account(lease_id), settled=cumulative))

    def last_settlement(self, lease_id: bytes) -> tuple[int, int]:
        """(cumulative, when) of the lease's last settlement; when is that of its first voucher if it has none."""
        row = self._db.execute(
            "SELECT cumulative, settled_at FROM settlements WHERE lease_id = ? ORDER BY id DESC LIMIT 1", (lease_id,)
        ).fetchone()
        if row:
            return int(row[0]), int(row[1])
        first = self._db.execute(
            "SELECT stored_at FROM vouchers WHERE lease_id = ? ORDER BY id LIMIT 1", (lease_id,)
        ).fetchone()
        return 0, int(first[0]) if first else 0

    def check(self) -> None:
        """Recomputes the totals and the range from the appended rows. Raises LedgerError naming what differs."""
        for lease_id in self.leases():
            served = sum(
                int(row[0])
                for row in self._db.execute("SELECT cost FROM receipts WHERE lease_id = ? AND final = 1", (lease_id,))
            )
            voucher = self.highest_voucher(lease_id)
            account = self.account(lease_id)
            if account.served != served or account.cumulative != (voucher.message.cumulative if voucher else 0):
                raise LedgerError(f"totals of lease 0x{lease_id.hex()} differ from its rows")
        fresh = MountainRange()
        for (receipt_digest,) in self._db.execute(
            "SELECT digest FROM leaves JOIN receipts USING (lease_id, seq) WHERE final = 1 ORDER BY position"
        ):
            fresh.append(receipt_digest)
        if fresh.count != self.count or fresh.root() != self.root():
            raise LedgerError("the merkle nodes differ from the receipts")

    # --- inside

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        before = self._range.count
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._range = MountainRange(_SqliteNodes(self._db), before)
            if isinstance(error, sqlite3.OperationalError):
                raise LedgerError(f"the ledger cannot be written: {error}") from error
            raise

    def _create(self) -> None:
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")

    def _check_identity(self, path: Path) -> None:
        identity = {
            "schema": str(SCHEMA_VERSION),
            "chain_id": str(self._domain.chain_id),
            "escrow": self._domain.escrow,
            "provider": str(self._provider),
        }
        stored = dict(self._db.execute("SELECT key, value FROM meta"))
        if not stored:
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
        elif stored != identity:
            names = ", ".join(sorted(key for key in identity if stored.get(key) != identity[key]))
            raise LedgerError(f"ledger {path} belongs to another deployment or provider: {names} differ")

    def _write_account(self, lease_id: bytes, account: Account) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?)",
            (
                lease_id,
                account.owner,
                str(account.cumulative),
                str(account.served),
                str(account.settled),
                account.highest_seq,
            ),
        )

    def _raise_voucher(self, signed: Signed[Voucher], owner: str, now: int) -> bool:
        voucher = signed.message
        account = self.account(voucher.lease_id)
        if voucher.cumulative <= account.cumulative:
            return False
        self._db.execute(
            "INSERT INTO vouchers (lease_id, cumulative, signed, stored_at) VALUES (?, ?, ?, ?)",
            (voucher.lease_id, str(voucher.cumulative), signed.encode(), now),
        )
        self._write_account(voucher.lease_id, replace(account, owner=owner, cumulative=voucher.cumulative))
        return True

    def _append_leaf(self, receipt: Receipt, receipt_digest: bytes) -> None:
        position = self._range.append(receipt_digest)
        self._db.execute("INSERT INTO leaves VALUES (?, ?, ?)", (position, receipt.lease_id, receipt.seq))
        account = self.account(receipt.lease_id)
        self._write_account(receipt.lease_id, replace(account, served=account.served + receipt.cost))

    def _receipt(self, lease_id: bytes, seq: int, *, only_final: bool) -> Signed[Receipt] | None:
        row = self._db.execute(
            "SELECT signed FROM receipts WHERE lease_id = ? AND seq = ? AND final >= ? ORDER BY part DESC LIMIT 1",
            (lease_id, seq, int(only_final)),
        ).fetchone()
        return parse_receipt(row[0]) if row else None


class _SqliteNodes:
    """The range's nodes, written in the ledger's current transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def get(self, level: int, index: int) -> bytes:
        row = self._db.execute("SELECT hash FROM nodes WHERE level = ? AND position = ?", (level, index)).fetchone()
        if row is None:
            raise LedgerError(f"merkle node {level}/{index} is missing")
        return bytes(row[0])

    def put(self, level: int, index: int, node: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", (level, index, node))
