"""`gateway.sqlite`: what the gateway keeps beside the records of its requests. Each statement is one commit."""

import sqlite3
import time
from pathlib import Path
from typing import Any, Self

from consumer.exceptions import StoreError

SCHEMA_VERSION = 1
_BUSY_S = 10.0
_CLOCK_NS = 100_000_000
"""Far more than the steps in which files tell their time."""
_SCHEMA = """
CREATE TABLE api_keys (
    key_id  TEXT PRIMARY KEY,
    digest  BLOB NOT NULL,     -- SHA-256 of the key, which itself is kept nowhere
    name    TEXT NOT NULL,
    details TEXT NOT NULL,     -- JSON: budgets, models, times
    revoked INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX names_in_use ON api_keys (name) WHERE NOT revoked;
CREATE TABLE lease_notes (
    lease_id BLOB PRIMARY KEY,
    deposit  TEXT NOT NULL,    -- base units, top-ups included
    stage    TEXT NOT NULL     -- open, closing or released
) WITHOUT ROWID;
"""


class GatewayFile:
    """The open file. Several processes may use it at once, and several threads of one."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_S)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._create()
            self._log = path.with_name(path.name + "-wal")
            self._written, self._version = (-1, -1), 0
        except (OSError, sqlite3.DatabaseError) as error:
            raise StoreError(f"{path} cannot be opened ({error}): check the folder and the disk") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds. Raises StoreError."""
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise StoreError(f"the gateway's file cannot be read: {error}") from error

    def write(self, statement: str, *values: Any) -> int:
        """Commits one change and counts the rows it met. Raises StoreError, sqlite3.IntegrityError."""
        try:
            return self._db.execute(statement, values).rowcount
        except sqlite3.OperationalError as error:
            raise StoreError(f"the gateway's file cannot be written: {error}") from error

    def foreign_changes(self) -> int:
        """A number that is another one after another process has changed something.

        The file is asked only if its log was written to since, or so lately that its time may not tell.
        """
        log = self._log.stat()
        written = (log.st_size, log.st_mtime_ns)
        if written != self._written or time.time_ns() - log.st_mtime_ns < _CLOCK_NS:
            (self._version,) = self._db.execute("PRAGMA data_version").fetchone()
            self._written = written
        return self._version

    def _create(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._db.execute("COMMIT")
        if version not in (0, SCHEMA_VERSION):
            raise StoreError("the gateway's file was written by another version of this program: use that version")
