"""The usage ledger: every voucher, request, receipt and anchor, in SQLite, durable before anything leaves the worker.

A receipt is committed with its signature before it is sent and is re-sent from here, never signed again. The merkle
mountain range over final receipts grows in the same transaction as the receipt. One thread uses a `Ledger` at a time.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from protocol.headers import SEQ_WINDOW, Signed, parse_anchor, parse_receipt, parse_voucher
from protocol.merkle import MountainRange
from protocol.typed_data import Anchor, Domain, Receipt, Voucher, digest
from provider.exceptions import LedgerError
from provider.ledger_schema import SCHEMA_VERSION, create, migrate


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
    is_released: bool = False


class Ledger:
    """Opened on one file, for one deployment and provider."""

    def __init__(self, path: Path, domain: Domain, provider: int) -> None:
        """Opens or creates the file, or brings an older version's up to date.

        Raises LedgerError if it is damaged, of another deployment or provider, or of a newer version.
        """
        self._domain = domain
        self._provider = provider
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # sqlite would let others read it
            self._db = sqlite3.connect(str(path), isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._prepare(path)
            (last,) = self._db.execute("SELECT max(position) FROM receipts WHERE position IS NOT NULL").fetchone()
        except (OSError, sqlite3.DatabaseError) as error:
            raise LedgerError(f"ledger {path} cannot be opened: {error}") from error
        self._range = MountainRange(_SqliteNodes(self._db), 0 if last is None else last + 1)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    # --- accounts and vouchers

    def account(self, lease_id: bytes) -> Account:
        """The lease's totals; zeros for one never seen."""
        row = self._db.execute(
            "SELECT owner, cumulative, served, settled, highest_seq, is_released FROM accounts WHERE lease_id = ?",
            (lease_id,),
        ).fetchone()
        return Account(row[0], int(row[1]), int(row[2]), int(row[3]), row[4], bool(row[5])) if row else Account()

    def unreleased(self) -> list[bytes]:
        """Leases that gave a voucher and are not known to be released."""
        return [row[0] for row in self._db.execute("SELECT lease_id FROM accounts WHERE is_released = 0")]

    def unsettled(self) -> list[bytes]:
        """Leases whose highest voucher is above what the chain has settled, and that are not known to be released."""
        return [row[0] for row in self._db.execute("SELECT lease_id FROM accounts WHERE is_unsettled = 1")]

    def settled_with(self, owner: str) -> int:
        """What the chain has settled on all leases of an owner with this provider."""
        row = self._db.execute("SELECT settled FROM owners WHERE owner = ?", (owner,)).fetchone()
        return int(row[0]) if row else 0

    def unpaid_of(self, owner: str) -> dict[bytes, int]:
        """By lease, how far the served value of an owner's leases is above their highest vouchers; only where it is."""
        rows = self._db.execute(
            "SELECT lease_id, served, cumulative FROM accounts WHERE owner = ? AND is_unpaid = 1", (owner,)
        )
        return {row[0]: int(row[1]) - int(row[2]) for row in rows}

    def highest_voucher_by(self, signer: str, lease_id: bytes) -> Signed[Voucher] | None:
        """The voucher to settle with: the highest by the lease's session key.

        A node that named another key when a voucher came has made us take one that the chain does not.
        """
        rows = self._db.execute("SELECT signed FROM vouchers WHERE lease_id = ? ORDER BY id DESC", (lease_id,))
        vouchers = (parse_voucher(row[0]) for row in rows)
        return next((signed for signed in vouchers if signed.recover(self._domain) == signer), None)

    def highest_voucher(self, lease_id: bytes) -> Signed[Voucher] | None:
        """The highest that was taken."""
        row = self._db.execute(
            "SELECT signed FROM vouchers WHERE lease_id = ? ORDER BY id DESC LIMIT 1", (lease_id,)
        ).fetchone()
        return parse_voucher(row[0]) if row else None

    def record_voucher(self, signed: Signed[Voucher], owner: str, now: int) -> bool:
        """Keeps a voucher if it is higher than all before; returns whether it was. Its lease is not released."""
        lease_id = signed.message.lease_id
        with self._transaction():
            before = self.account(lease_id)
            after = self._with_voucher(before, signed, now)
            if after == before:
                return False
            self._write_account(lease_id, before, replace(after, owner=owner, is_released=False))
            return True

    # --- requests

    def request(self, lease_id: bytes, seq: int) -> AdmittedRequest | None:
        """An admitted request."""
        row = self._db.execute(
            "SELECT request_hash, max_cost, sent_at FROM requests WHERE lease_id = ? AND seq = ?", (lease_id, seq)
        ).fetchone()
        return AdmittedRequest(lease_id, seq, row[0], int(row[1]), row[2]) if row else None

    def admit(self, request: AdmittedRequest, signed: Signed[Voucher], owner: str, now: int) -> None:
        """Records a request and the voucher that authorises it. Raises LedgerError if its seq is used or too old."""
        key = (request.lease_id, request.seq)
        with self._transaction():
            before = self.account(request.lease_id)
            if request.seq <= before.highest_seq - SEQ_WINDOW:
                raise LedgerError(f"seq {request.seq} is more than {SEQ_WINDOW} behind {before.highest_seq}")
            try:
                self._db.execute(
                    "INSERT INTO requests VALUES (?, ?, ?, ?, ?)",
                    (*key, request.request_hash, str(request.max_cost), request.sent_at),
                )
            except sqlite3.IntegrityError as error:
                raise LedgerError(f"seq {request.seq} is used") from error
            self._db.execute("INSERT INTO open_requests VALUES (?, ?)", key)
            after = self._with_voucher(before, signed, now)
            self._write_account(
                request.lease_id,
                before,
                replace(after, owner=owner, highest_seq=max(request.seq, before.highest_seq), is_released=False),
            )

    def unfinished(self) -> list[AdmittedRequest]:
        """Admitted requests without a final receipt: after a start, those that a crash interrupted."""
        rows = self._db.execute(
            "SELECT lease_id, seq, request_hash, max_cost, sent_at FROM open_requests JOIN requests "
            "USING (lease_id, seq)"
        )
        return [AdmittedRequest(row[0], row[1], row[2], int(row[3]), row[4]) for row in rows]

    def abandon_open(self) -> int:
        """Gives up every unfinished request; returns how many. No receipt is ever signed for one of them again.

        For a restored ledger: what was open when the copy was made may have ended since, with a final receipt that the
        copy does not know, and a second one would contradict it.
        """
        with self._transaction():
            self._db.execute("INSERT INTO abandoned_requests SELECT lease_id, seq FROM open_requests")
            return self._db.execute("DELETE FROM open_requests").rowcount

    # --- receipts

    def record_receipt(self, signed: Signed[Receipt]) -> None:
        """Commits a receipt; a final one also becomes a leaf and counts as served.

        Raises LedgerError if the request was not admitted, is already final, or the part exists.
        """
        receipt = signed.message
        key = (receipt.lease_id, receipt.seq)
        with self._transaction():
            if not self._db.execute("SELECT 1 FROM open_requests WHERE lease_id = ? AND seq = ?", key).fetchone():
                raise LedgerError(f"seq {receipt.seq} {self._why_not_open(*key)}")
            receipt_digest = digest(self._domain, receipt)
            try:
                self._db.execute(
                    "INSERT INTO receipts (lease_id, seq, part, cost, digest, position, signed) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        *key,
                        receipt.part,
                        str(receipt.cost),
                        receipt_digest,
                        self.count if receipt.final else None,
                        signed.encode(),
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise LedgerError(f"part {receipt.part} of seq {receipt.seq} exists") from error
            if receipt.final:
                self._range.append(receipt_digest)
                self._db.execute("DELETE FROM open_requests WHERE lease_id = ? AND seq = ?", key)
                before = self.account(receipt.lease_id)
                self._write_account(receipt.lease_id, before, replace(before, served=before.served + receipt.cost))

    def final_receipt(self, lease_id: bytes, seq: int) -> Signed[Receipt] | None:
        """The final receipt of a request, as it was signed."""
        row = self._db.execute(
            "SELECT signed FROM receipts WHERE lease_id = ? AND seq = ? AND position IS NOT NULL", (lease_id, seq)
        ).fetchone()
        return parse_receipt(row[0]) if row else None

    def last_receipt(self, lease_id: bytes, seq: int) -> Signed[Receipt] | None:
        """The latest receipt of a request, final or not."""
        row = self._db.execute(
            "SELECT signed FROM receipts WHERE lease_id = ? AND seq = ? ORDER BY part DESC LIMIT 1", (lease_id, seq)
        ).fetchone()
        return parse_receipt(row[0]) if row else None

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
        row = self._db.execute(
            "SELECT position FROM receipts WHERE lease_id = ? AND seq = ? AND position IS NOT NULL", (lease_id, seq)
        ).fetchone()
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

    def unconfirm_anchors(self, above: int) -> None:
        """Takes back that anchors of more than `above` receipts are on chain."""
        with self._transaction():
            self._db.execute("DELETE FROM confirmed_anchors WHERE count > ?", (above,))

    def last_anchor(self, *, confirmed: bool = False) -> StoredAnchor | None:
        """The latest signed anchor, or the latest known to be on chain."""
        row = self._db.execute(
            "SELECT signed, prev_count, prev_root FROM anchors "
            "WHERE NOT ? OR count IN (SELECT count FROM confirmed_anchors) ORDER BY count DESC LIMIT 1",
            (confirmed,),
        ).fetchone()
        return StoredAnchor(parse_anchor(row[0]), row[1], row[2]) if row else None

    def anchors(self) -> Iterator[Anchor]:
        """Every anchor that was signed, the newest first."""
        for row in self._db.execute("SELECT signed FROM anchors ORDER BY count DESC"):
            yield parse_anchor(row[0]).message

    # --- settlements

    def record_settlement(self, lease_id: bytes, cumulative: int, now: int) -> None:
        """Notes that the chain has settled a lease up to `cumulative`; what was noted above that is taken back."""
        with self._transaction():
            before = self.account(lease_id)
            if cumulative < before.settled:
                self._forget_settlements(lease_id, cumulative)
            if cumulative > self.last_settlement(lease_id)[0]:
                self._db.execute(
                    "INSERT INTO settlements (lease_id, cumulative, settled_at) VALUES (?, ?, ?)",
                    (lease_id, str(cumulative), now),
                )
            self._write_account(lease_id, before, replace(before, settled=cumulative))

    def record_release(self, lease_id: bytes) -> None:
        """Notes that the lease is released on chain: nothing of it can be settled any more."""
        with self._transaction():
            before = self.account(lease_id)
            self._write_account(lease_id, before, replace(before, is_released=True))

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
        settled: dict[str, int] = {}
        for (lease_id,) in self._db.execute("SELECT lease_id FROM accounts").fetchall():
            costs = self._db.execute(
                "SELECT cost FROM receipts WHERE lease_id = ? AND position IS NOT NULL", (lease_id,)
            )
            served = sum(int(row[0]) for row in costs)
            voucher = self.highest_voucher(lease_id)
            account = self.account(lease_id)
            if account.served != served or account.cumulative != (voucher.message.cumulative if voucher else 0):
                raise LedgerError(f"totals of lease 0x{lease_id.hex()} differ from its rows")
            settled[account.owner] = settled.get(account.owner, 0) + account.settled
        for owner, total in settled.items():
            if self.settled_with(owner) != total:
                raise LedgerError(f"the settled total of owner {owner} differs from its leases'")
        (lost,) = self._db.execute(
            "SELECT count(*) FROM requests AS r WHERE 1 <> "
            "(SELECT count(*) FROM open_requests AS o WHERE o.lease_id = r.lease_id AND o.seq = r.seq) + "
            "(SELECT count(*) FROM abandoned_requests AS a WHERE a.lease_id = r.lease_id AND a.seq = r.seq) + "
            "(SELECT count(*) FROM receipts AS f "
            "WHERE f.lease_id = r.lease_id AND f.seq = r.seq AND f.position IS NOT NULL)"
        ).fetchone()
        if lost:
            raise LedgerError(f"{lost} requests are neither open nor ended, or both")
        fresh = MountainRange()
        for (receipt_digest,) in self._db.execute(
            "SELECT digest FROM receipts WHERE position IS NOT NULL ORDER BY position"
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

    def _prepare(self, path: Path) -> None:
        identity = {
            "chain_id": str(self._domain.chain_id),
            "escrow": self._domain.escrow,
            "provider": str(self._provider),
        }
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0:
            create(self._db, identity)
        stored = dict(self._db.execute("SELECT key, value FROM meta"))
        names = ", ".join(sorted(key for key in identity if stored.get(key) != identity[key]))
        if names:
            raise LedgerError(f"ledger {path} belongs to another deployment or provider: {names} differ")
        if stored.get("schema") == "1":
            migrate(self._db)
        elif stored.get("schema") != str(SCHEMA_VERSION):
            raise LedgerError(f"ledger {path} was written by a newer version of this program: use that one")

    def _why_not_open(self, lease_id: bytes, seq: int) -> str:
        if self.request(lease_id, seq) is None:
            return "was never admitted"
        if self.final_receipt(lease_id, seq) is not None:
            return "already has its final receipt"
        return "was abandoned when the ledger was restored"

    def _write_account(self, lease_id: bytes, before: Account, after: Account) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                lease_id,
                after.owner,
                str(after.cumulative),
                str(after.served),
                str(after.settled),
                after.highest_seq,
                after.is_released,
                after.cumulative > after.settled and not after.is_released,
                after.served > after.cumulative,
            ),
        )
        if (before.owner, before.settled) != (after.owner, after.settled):
            self._add_settled(before.owner, -before.settled)
            self._add_settled(after.owner, after.settled)

    def _forget_settlements(self, lease_id: bytes, above: int) -> None:
        rows = self._db.execute("SELECT id, cumulative FROM settlements WHERE lease_id = ?", (lease_id,)).fetchall()
        wrong = [(row[0],) for row in rows if int(row[1]) > above]
        self._db.executemany("DELETE FROM settlements WHERE id = ?", wrong)

    def _add_settled(self, owner: str, amount: int) -> None:
        if amount:
            total = str(self.settled_with(owner) + amount)
            self._db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (owner, total))

    def _with_voucher(self, account: Account, signed: Signed[Voucher], now: int) -> Account:
        """Keeps a voucher that is higher than all before; returns the account with it."""
        voucher = signed.message
        if voucher.cumulative <= account.cumulative:
            return account
        self._db.execute(
            "INSERT INTO vouchers (lease_id, cumulative, signed, stored_at) VALUES (?, ?, ?, ?)",
            (voucher.lease_id, str(voucher.cumulative), signed.encode(), now),
        )
        return replace(account, cumulative=voucher.cumulative)


class _SqliteNodes:
    """The range's nodes, written in the ledger's current transaction.

    The last left child of each level is kept in memory: those are the peaks, all that an append reads.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._left: dict[int, tuple[int, bytes]] = {}

    def get(self, level: int, index: int) -> bytes:
        position, node = self._left.get(level, (-1, b""))
        if position == index:
            return node
        row = self._db.execute("SELECT hash FROM nodes WHERE level = ? AND position = ?", (level, index)).fetchone()
        if row is None:
            raise LedgerError(f"merkle node {level}/{index} is missing")
        return bytes(row[0])

    def put(self, level: int, index: int, node: bytes) -> None:
        if index % 2 == 0:
            self._left[level] = (index, node)
        self._db.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", (level, index, node))
