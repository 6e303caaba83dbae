"""Durable record of what a sender means to send: SQLite in WAL mode, every commit synced to disk.

States of an intent:

    PENDING   recorded and signed; broadcast at least once or about to be
    MINED     in a block that is not final: a reorganisation takes it back to PENDING
    FINAL     in a final block, for good; succeeded or reverted
    REFUSED   another transaction took its nonce for good, and sending it again would revert (or is pointless)

An attempt is one signed transaction of an intent; all attempts of one nonce exclude each other on chain. Attempts at a
nonce that was lost for good are kept as abandoned. A file restored from an old copy does not know its latest attempts
and must not be used again: start a new one once the account has no pending transactions.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, cast

from protocol.chain.exceptions import ForeignStore, SenderError, SenderLocked
from protocol.chain.transactions import Transaction
from protocol.chain.views import Fees, TxReceipt

_SCHEMA_VERSION = "1"
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE intents (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    receiver TEXT NOT NULL,
    data BLOB NOT NULL,
    value TEXT NOT NULL,
    gas INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    state TEXT NOT NULL,
    receipt TEXT,
    note TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX intents_by_state ON intents (state);
CREATE UNIQUE INDEX intents_by_nonce ON intents (nonce) WHERE state <> 'refused';
CREATE TABLE attempts (
    hash BLOB PRIMARY KEY,
    intent INTEGER NOT NULL REFERENCES intents (id),
    nonce INTEGER NOT NULL,
    raw BLOB NOT NULL,
    max_fee TEXT NOT NULL,
    tip TEXT NOT NULL,
    made_at REAL NOT NULL,
    made_block INTEGER NOT NULL,
    abandoned INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX attempts_by_intent ON attempts (intent);
"""


class State(StrEnum):
    PENDING = "pending"
    MINED = "mined"
    FINAL = "final"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed transaction; `made_at` in Unix seconds of this machine, `made_block` the head's number then."""

    hash: bytes
    nonce: int
    raw: bytes
    fees: Fees
    made_at: float
    made_block: int
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Intent:
    """A recorded transaction with all its attempts, oldest first."""

    id: int
    key: str
    transaction: Transaction
    gas: int
    nonce: int
    state: State
    receipt: TxReceipt | None
    note: str
    attempts: tuple[Attempt, ...]

    @property
    def current(self) -> Attempt:
        """The attempt that should be mined: the newest, with the highest bid."""
        return self.attempts[-1]


class IntentStore:
    """The file of one account on one chain, locked for one process. Its caller serialises access.

    Raises SenderLocked, ForeignStore; SenderError when a commit fails, and then nothing of it is recorded.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        """`identity`: what this file must belong to, such as account and chain; compared when it exists already."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._acquire()
        try:
            self._db = self._open(identity)
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    def find(self, key: str) -> Intent | None:
        row = self._db.execute("SELECT * FROM intents WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._intent(row)

    def live(self) -> list[Intent]:
        """What is not settled yet, by nonce."""
        rows = self._db.execute(
            "SELECT * FROM intents WHERE state IN (?, ?) ORDER BY nonce", (State.PENDING, State.MINED)
        ).fetchall()
        return [self._intent(row) for row in rows]

    def holder(self, nonce: int) -> Intent | None:
        """The intent that owns this nonce."""
        row = self._db.execute("SELECT * FROM intents WHERE nonce = ? AND state <> 'refused'", (nonce,)).fetchone()
        return None if row is None else self._intent(row)

    def next_nonce(self) -> int:
        """One above every nonce ever recorded."""
        highest = self._db.execute("SELECT max(nonce) FROM attempts").fetchone()[0]
        return 0 if highest is None else int(highest) + 1

    def record(self, key: str, transaction: Transaction, gas: int, attempt: Attempt) -> Intent:
        """A new intent with its first attempt. On return it is on disk."""
        with self._writing():
            cursor = self._db.execute(
                "INSERT INTO intents (key, receiver, data, value, gas, nonce, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, transaction.to, transaction.data, str(transaction.value), gas, attempt.nonce, State.PENDING),
            )
            self._insert(cursor.lastrowid, attempt)
        return self._reread(key)

    def replace(self, intent: Intent, attempt: Attempt) -> Intent:
        """A further attempt at the same nonce."""
        with self._writing():
            self._insert(intent.id, attempt)
        return self._reread(intent.key)

    def move(self, intent: Intent, gas: int, attempt: Attempt) -> Intent:
        """Give up the intent's nonce, lost for good, and go on at the attempt's."""
        with self._writing():
            self._db.execute("UPDATE attempts SET abandoned = 1 WHERE intent = ?", (intent.id,))
            self._db.execute(
                "UPDATE intents SET nonce = ?, gas = ?, state = ?, note = '' WHERE id = ?",
                (attempt.nonce, gas, State.PENDING, intent.id),
            )
            self._insert(intent.id, attempt)
        return self._reread(intent.key)

    def set_state(self, intent: Intent, state: State, receipt: TxReceipt | None = None, note: str = "") -> Intent:
        text = None if receipt is None else json.dumps(receipt.as_json(), separators=(",", ":"))
        with self._writing():
            self._db.execute(
                "UPDATE intents SET state = ?, receipt = ?, note = ? WHERE id = ?", (state, text, note, intent.id)
            )
        return self._reread(intent.key)

    def _reread(self, key: str) -> Intent:
        intent = self.find(key)
        if intent is None:
            raise ForeignStore(f"{self._path}: the intent {key} vanished: something else writes to this file")
        return intent

    def _insert(self, intent_id: int | None, attempt: Attempt) -> None:
        self._db.execute(
            "INSERT INTO attempts (hash, intent, nonce, raw, max_fee, tip, made_at, made_block) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(attempt.hash, intent_id, attempt.nonce, attempt.raw),
                *(str(attempt.fees.max_fee), str(attempt.fees.tip), attempt.made_at, attempt.made_block),
            ),
        )

    def _intent(self, row: sqlite3.Row) -> Intent:
        attempts = self._db.execute("SELECT * FROM attempts WHERE intent = ? ORDER BY rowid", (row["id"],)).fetchall()
        return Intent(
            id=row["id"],
            key=row["key"],
            transaction=Transaction(row["receiver"], row["data"], int(row["value"])),
            gas=row["gas"],
            nonce=row["nonce"],
            state=State(row["state"]),
            receipt=_receipt(row["receipt"]),
            note=row["note"],
            attempts=tuple(_attempt(attempt) for attempt in attempts),
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise SenderError(f"{self._path} cannot be written ({error}): nothing was sent; check the disk") from None

    def _acquire(self) -> BinaryIO:
        descriptor = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lock = cast("BinaryIO", os.fdopen(descriptor, "r+b", buffering=0))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = lock.read(32).decode(errors="replace").strip() or "unknown"
            lock.close()
            raise SenderLocked(
                f"{self._path} is in use by process {holder}: one process sends for an account; stop that one first"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        return lock

    def _open(self, identity: dict[str, str]) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                self._create(db, identity)
            faults = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
            found = {row["name"]: row["value"] for row in db.execute("SELECT name, value FROM meta")}
        except sqlite3.DatabaseError as error:
            faults, found = [str(error)], {}
        if faults != ["ok"]:
            db.close()
            raise ForeignStore(
                f"{self._path} is damaged or no sender's file ({faults[0]}): keep it for inspection and, once the "
                "account has no pending transactions, start with a new file"
            )
        for name, value in {**identity, "schema": _SCHEMA_VERSION}.items():
            if found.get(name) != value:
                db.close()
                raise ForeignStore(
                    f"{self._path} belongs to {name} {found.get(name)}, not to {value}: use another file for this one"
                )
        return db

    @staticmethod
    def _create(db: sqlite3.Connection, identity: dict[str, str]) -> None:
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            if statement.strip():
                db.execute(statement)
        rows = [*identity.items(), ("schema", _SCHEMA_VERSION)]
        db.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", rows)
        db.execute("COMMIT")


def _attempt(row: sqlite3.Row) -> Attempt:
    return Attempt(
        hash=row["hash"],
        nonce=row["nonce"],
        raw=row["raw"],
        fees=Fees(int(row["max_fee"]), int(row["tip"])),
        made_at=row["made_at"],
        made_block=row["made_block"],
        abandoned=bool(row["abandoned"]),
    )


def _receipt(text: str | None) -> TxReceipt | None:
    if text is None:
        return None
    document: Any = json.loads(text)
    return TxReceipt.parse(document, bytes.fromhex(document["transactionHash"][2:]))
