"""Durable records of one gateway: leases, request numbers, vouchers, receipts. Written before anything is sent.

Amounts are decimal text in token base units. One process uses a file at a time. What is needed to send a request
again, its body included, is kept until the request's end is known and then erased.

`write` is for what many requests do at once: changes that wait together are committed together, on a thread of its own,
so that the disk delays nobody twice. Everything else commits where it is called.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

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


_OPEN = "state IN ('signed', 'admitted')"
__all__ = ["LeaseRecord", "Store"]


class Store:
    """Opened on one file, for one deployment. `only_reads` is for looking beside the process that uses it."""

    def __init__(self, path: Path, domain: Domain, *, only_reads: bool = False) -> None:
        """Raises StoreInUse, StoreError if the file is damaged, of another deployment or of another version."""
        identity = {"chain_id": str(domain.chain_id), "escrow": domain.escrow}
        self._commit_lock = threading.RLock()
        self._last_vouchers: dict[bytes, tuple[int, int]] = {}
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
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
        except (OSError, sqlite3.DatabaseError) as error:
            raise StoreError(
                f"{path} cannot be opened ({error}): check the folder and the disk, or restore the file"
            ) from error

    def close(self) -> None:
        """Closes the file, after what waits to be written."""
        if self._writer is not None:
            self._writes.put(None)
            self._writer.join()
            self._writer = None
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    async def write(self, change: Callable[[], None]) -> None:
        """Runs a change on the writer's thread; on disk once this returns. Raises StoreError."""
        # a caller that is cancelled leaves a change that is made all the same
        await asyncio.shield(self.begin(change))

    def begin(self, change: Callable[[], None]) -> asyncio.Future[None]:
        """Runs a change on the writer's thread; on disk once the future is done, which nobody may cancel."""
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="store", daemon=True)
            self._writer.start()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes.put(_Write(change, done))
        return done

    def _write_all(self) -> None:
        is_open = True
        while is_open:
            writes = [self._writes.get()]
            while not self._writes.empty():
                writes.append(self._writes.get())
            is_open = None not in writes
            waiting = [write for write in writes if write is not None]
            failures = [self._write_one(waiting[0])] if len(waiting) == 1 else self._write_batch(waiting)
            _tell(list(zip(waiting, failures, strict=True)))

    def _write_one(self, write: "_Write") -> Exception | None:
        try:
            with self._transaction():
                write.change()
        except (StoreError, sqlite3.Error) as error:
            return error
        return None

    def _write_batch(self, writes: "list[_Write]") -> list[Exception | None]:
        """All in one commit; a change that fails is undone by itself, unless with it SQLite undid all, as does a commit
        that fails."""
        failures: list[Exception | None] = []
        if not writes:
            return failures
        try:
            with self._transaction():
                for write in writes:
                    try:
                        with self._transaction():
                            write.change()
                        failures.append(None)
                    except StoreError as error:
                        if not self._db.in_transaction:
                            raise
                        failures.append(error)
        except (StoreError, sqlite3.Error) as error:
            return [error] * len(writes)
        return failures

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
        """One commit, or a part of the one that this thread has begun."""
        with self._commit_lock:
            begin, commit, undo = (
                ("SAVEPOINT part", ("RELEASE part",), ("ROLLBACK TO part", "RELEASE part"))
                if self._db.in_transaction
                else ("BEGIN IMMEDIATE", ("COMMIT",), ("ROLLBACK",))
            )
            try:
                self._db.execute(begin)
                yield
                for statement in commit:
                    self._db.execute(statement)
            except BaseException as error:
                self._last_vouchers.clear()
                if self._db.in_transaction:
                    for statement in undo:
                        self._db.execute(statement)
                if isinstance(error, sqlite3.OperationalError):
                    raise StoreError(f"the records cannot be written: {error}") from error
                raise


class _Write:
    """A change on its way to the disk."""

    def __init__(self, change: Callable[[], None], done: asyncio.Future[None]) -> None:
        self.change = change
        self._done = done

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it is waited for."""
        return self._done.get_loop()

    def finish(self, failure: Exception | None) -> None:
        """Tells who waits, if anybody does any more; on its loop."""
        if self._done.cancelled():
            return
        if failure is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(failure)


def _tell(finished: list[tuple[_Write, Exception | None]]) -> None:
    """Wakes each loop once, for all that wait there."""
    loops = {write.loop for write, _ in finished}
    for loop in loops:
        mine = [(write, failure) for write, failure in finished if write.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(_finish, mine)


def _finish(finished: list[tuple[_Write, Exception | None]]) -> None:
    for write, failure in finished:
        write.finish(failure)


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
