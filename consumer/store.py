"""Durable records of one gateway: leases, request numbers, vouchers, receipts. Written before anything is sent.

Amounts are decimal text in token base units. One process uses a file at a time. What is needed to send a request
again, its body included, is kept until the request's end is known and then erased.

`write` and `write_later` are for what many requests do at once: SQLite has the change when they return, and whoever
waits for the disk waits together with the others. Everything else is on disk when the call returns.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from consumer.disk import Disk
from consumer.exceptions import StoreError, StoreInUse
from consumer.records import Draft, LeaseRecord, Limits, OpenCost, OpenRequest, RequestState, Spent
from protocol.headers import (
    RequestContext,
    Signed,
    encode_request,
    parse_receipt,
    parse_request,
    parse_voucher,
)
from protocol.typed_data import Domain, Receipt, Voucher

SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (
    lease_id BLOB PRIMARY KEY,
    details  TEXT NOT NULL,
    is_open  INTEGER NOT NULL   -- 0 until the chain is known to have it
) WITHOUT ROWID;
CREATE TABLE vouchers (
    lease_id   BLOB NOT NULL,
    number     INTEGER NOT NULL,  -- in the order of signing
    signed     TEXT NOT NULL,
    PRIMARY KEY (lease_id, number)
) WITHOUT ROWID;
CREATE TABLE requests (
    lease_id BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    state    TEXT NOT NULL,
    max_cost TEXT NOT NULL,
    owed     TEXT NOT NULL,     -- what this request is known to cost so far, or was prepaid
    limits   TEXT NOT NULL,     -- JSON: what its receipts are held against
    context  TEXT NOT NULL,     -- the request header
    voucher  TEXT NOT NULL,     -- the voucher that authorises it
    body     BLOB,
    key_id   TEXT NOT NULL,     -- the virtual API key that asked, empty for the owner itself
    created  INTEGER NOT NULL,  -- Unix seconds
    PRIMARY KEY (lease_id, seq)
) WITHOUT ROWID;
CREATE INDEX open_requests ON requests (lease_id, seq) WHERE state IN ('signed', 'admitted');
CREATE TABLE receipts (
    lease_id BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    part     INTEGER NOT NULL,
    signed   TEXT NOT NULL,
    PRIMARY KEY (lease_id, seq, part)
) WITHOUT ROWID;
"""


_CHECKPOINT_EVERY = 256
_OPEN = "state IN ('signed', 'admitted')"
__all__ = ["LeaseRecord", "Store"]


class Store:
    """Opened on one file, for one deployment. `only_reads` is for looking beside the process that uses it."""

    def __init__(self, path: Path, domain: Domain, *, only_reads: bool = False) -> None:
        """Raises StoreInUse, StoreError if the file is damaged, of another deployment or of another version."""
        identity = {"chain_id": str(domain.chain_id), "escrow": domain.escrow}
        self._commit_lock = threading.RLock()
        self._last_vouchers: dict[bytes, tuple[int, int]] = {}
        self._path = path
        self._changes = 0
        self._checkpoint: threading.Thread | None = None
        self._lock = None if only_reads else _lock(path)
        try:
            self._open(path, identity)
            self._db.execute(f"PRAGMA query_only={only_reads}")
        except BaseException:
            self._unlock()
            raise

    def _open(self, path: Path, identity: dict[str, str]) -> None:
        try:
            path.touch(mode=0o600)
            path.chmod(0o600)  # it holds prompts
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")  # what is committed is written out here
            self._db.execute("PRAGMA secure_delete=ON")
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables:
                self._check_origin(path, identity)
            self._disk = Disk(path.with_name(f"{path.name}-wal"))
            if not tables:
                with self._changing():
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                    self._db.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
        except (OSError, sqlite3.DatabaseError) as error:
            raise StoreError(
                f"{path} cannot be opened ({error}): check the folder and the disk, or restore the file"
            ) from error

    def _check_origin(self, path: Path, identity: dict[str, str]) -> None:
        if self._db.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
            raise StoreError(
                f"{path} was written by another version of this program: use that version to close its leases, "
                "then choose another data folder"
            )
        if dict(self._db.execute("SELECT key, value FROM meta")) != identity:
            raise StoreError(
                f"{path} belongs to another deployment: use that deployment's file, or choose another data folder"
            )

    def close(self) -> None:
        """Closes the file, after what waits to be written."""
        self._disk.close()
        if self._checkpoint is not None:
            self._checkpoint.join()
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def write(self, change: Callable[[], None]) -> asyncio.Future[None]:
        """Makes a change; on disk, as soon as may be, once the future is done. It ends with StoreError if it is not."""
        return self._begin(change, lambda: None, soon=True)

    def write_later(self, change: Callable[[], None], then: Callable[[], None]) -> asyncio.Future[None]:
        """The same for what holds nobody up. Once it is on disk `then` is called, also if nobody waits any more."""
        return self._begin(change, then, soon=False)

    def _begin(self, change: Callable[[], None], then: Callable[[], None], *, soon: bool) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(failure: StoreError | None) -> None:
            try:
                if failure is None:
                    then()
            finally:
                if not done.cancelled():
                    done.set_exception(failure) if failure else done.set_result(None)

        try:
            with self._changing():
                change()
        except StoreError as error:
            done.set_exception(error)
        else:
            self._disk.write_out(tell, soon=soon)
            self._changes += 1
            if self._changes % _CHECKPOINT_EVERY == 0:
                self._start_checkpoint()
        return done

    def _start_checkpoint(self) -> None:
        """Moves what the log holds into the file, beside other work."""
        if self._checkpoint is None or not self._checkpoint.is_alive():
            self._checkpoint = threading.Thread(target=_checkpoint, args=(self._path,), name="checkpoint", daemon=True)
            self._checkpoint.start()

    def add_lease(self, record: LeaseRecord) -> None:
        """Keeps a lease that is about to be opened; adding it again changes nothing."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO leases VALUES (?, ?, 0)", (record.lease_id, record.to_json()))

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
        return sum(cost.promised for cost in self.open_costs(lease_id).values())

    def set_node_key(self, lease_id: bytes, node_key: str) -> None:
        """Notes that the provider signs with another key now."""
        with self._transaction():
            record = replace(self.lease(lease_id), node_key=node_key)
            self._db.execute("UPDATE leases SET details = ? WHERE lease_id = ?", (record.to_json(), lease_id))

    def next_seq(self, lease_id: bytes) -> int:
        """The first request number that was never given. Raises StoreError."""
        self.lease(lease_id)
        (last,) = self._db.execute("SELECT max(seq) FROM requests WHERE lease_id = ?", (lease_id,)).fetchone()
        return 0 if last is None else int(last) + 1

    def authorise(self, draft: Draft, context: RequestContext, voucher: Signed[Voucher]) -> None:
        """A request with the voucher that authorises it, which may be on its way from now on.

        Raises StoreError if its number was given before, or the voucher is lower than the one before.
        """
        lease_id = voucher.message.lease_id
        with self._transaction():
            inserted = self._db.execute(
                "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    lease_id,
                    context.seq,
                    RequestState.SIGNED,
                    str(draft.max_cost),
                    str(draft.prepaid),
                    json.dumps(asdict(draft.limits)),
                    encode_request(context),
                    voucher.encode(),
                    draft.body,
                    draft.key_id,
                    context.sent_at,
                ),
            )
            if inserted.rowcount != 1:
                raise StoreError(f"request {context.seq} has its voucher already")
            self.record_voucher(voucher)

    def open_costs(self, lease_id: bytes) -> dict[int, OpenCost]:
        """What requests whose end is not known may cost, and are known to cost so far, by their numbers."""
        rows = self._db.execute(f"SELECT seq, max_cost, owed FROM requests WHERE lease_id = ? AND {_OPEN}", (lease_id,))  # noqa: S608
        return {seq: OpenCost(int(most), int(owed)) for seq, most, owed in rows}

    def spending(self, since: int = 0) -> Iterator[Spent]:
        """What every request since then cost, or may still cost."""
        rows = self._db.execute(
            f"SELECT created, key_id, lease_id, seq, owed, CASE WHEN {_OPEN} THEN max_cost ELSE owed END, "  # noqa: S608
            "(SELECT signed FROM receipts WHERE (lease_id, seq) = (requests.lease_id, requests.seq) "
            "ORDER BY part DESC LIMIT 1) FROM requests WHERE created >= ? ORDER BY created",
            (since,),
        )
        for created, key_id, lease_id, seq, owed, most, receipt in rows:
            ended = int(receipt.partition(";endedAt=")[2].partition(";")[0]) if receipt else 0
            yield Spent(created, key_id, lease_id, seq, int(owed), max(0, int(most) - int(owed)), ended)

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
                voucher=parse_voucher(voucher),
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
            "SELECT signed FROM vouchers WHERE lease_id = ? ORDER BY number DESC LIMIT 1", (lease_id,)
        ).fetchone()
        return parse_voucher(row[0]) if row else None

    def record_voucher(self, signed: Signed[Voucher]) -> None:
        """Keeps a voucher. Raises StoreError on one lower than before."""
        voucher = signed.message
        with self._transaction():
            number, highest = self._last_voucher(voucher.lease_id)
            if voucher.cumulative < highest:
                raise StoreError("a voucher may not be lower than the one before")
            self._db.execute("INSERT INTO vouchers VALUES (?, ?, ?)", (voucher.lease_id, number + 1, signed.encode()))
            self._last_vouchers[voucher.lease_id] = (number + 1, voucher.cumulative)

    def _last_voucher(self, lease_id: bytes) -> tuple[int, int]:
        """Number and cumulative of the last voucher; of none, -1 and 0. What was undone is read anew."""
        if lease_id not in self._last_vouchers:
            row = self._db.execute(
                "SELECT number, signed FROM vouchers WHERE lease_id = ? ORDER BY number DESC LIMIT 1", (lease_id,)
            ).fetchone()
            self._last_vouchers[lease_id] = (row[0], parse_voucher(row[1]).message.cumulative) if row else (-1, 0)
        return self._last_vouchers[lease_id]

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
        """A change that is on disk when this ends, or a part of the one that is under way."""
        with self._commit_lock:
            if self._db.in_transaction:
                yield
                return
            with self._changing():
                yield
        self._disk.sync()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One commit, which the system has and the disk may not have yet."""
        with self._commit_lock:
            self._disk.check()
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as error:
                self._last_vouchers.clear()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise StoreError(f"the records cannot be written: {error}") from error
                raise


def _checkpoint(path: Path) -> None:
    """What cannot be moved now is moved the next time."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _lock(path: Path) -> int:
    """A descriptor that locks the file's neighbour until it is closed or the process ends. Raises StoreError."""
    try:
        descriptor = os.open(path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened ({error.strerror}): check the folder and the disk") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreInUse(f"{path} is in use by another process: stop the gateway that runs on it, or ask it") from error
    return descriptor
