"""The tables in an SQLite file."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from indexer.exceptions import StoreError, WriterRunning
from indexer.store.columns import DIGITS
from indexer.store.copy_text import check_uint
from indexer.store.migrate import upgrade
from indexer.store.shapes import Key, Row, Shape

_BUSY_S = 30.0
_VALUES = 900
"""Values in one statement; older SQLite takes 999."""


class SqliteDatabase:
    """A `Database` in a file, made when it is missing. The writer locks `<file>.lock` beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: IO[bytes] | None = None
        self._connection = self._connect()

    @property
    def where(self) -> str:
        return str(self._path)

    def migrate(self) -> None:
        self._connection.close()
        upgrade(create_engine("sqlite://", creator=lambda: sqlite3.connect(self._path), poolclass=NullPool))
        self._connection = self._connect()

    def has_tables(self) -> bool:
        return self.execute("SELECT count(*) FROM sqlite_master WHERE name = 'cursor'") == [(1,)]

    def lock(self) -> None:
        file = self._lock_path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise WriterRunning(
                f"another indexer writes to {self.where}: stop it first, or give this one another file"
            ) from None
        self._lock = file

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._faults():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk has rolled back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def prepare_blocks(self, first: int, last: int) -> None:
        """Nothing to prepare: the table has no partitions here."""

    def insert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        marks = ", ".join("?" * len(shape.columns))
        writers = [_WRITERS.get(kind) for kind in shape.kinds]
        with self._faults():
            self._connection.executemany(
                f"INSERT INTO {shape.name} ({', '.join(shape.columns)}) VALUES ({marks})",  # noqa: S608
                (_written(writers, row) for row in rows),
            )

    def upsert(self, shape: Shape, rows: Sequence[Row]) -> None:
        marks = ", ".join("?" * len(shape.columns))
        writers = [_WRITERS.get(kind) for kind in shape.kinds]
        with self._faults():
            self._connection.executemany(
                f"INSERT OR REPLACE INTO {shape.name} ({', '.join(shape.columns)}) VALUES ({marks})",  # noqa: S608
                (_written(writers, [row[name] for name in shape.columns]) for row in rows),
            )

    def delete(self, shape: Shape, keys: Sequence[Key]) -> None:
        matched = " AND ".join(f"{name} = ?" for name in shape.key)
        writers = [_WRITERS.get(kind) for kind in shape.key_kinds]
        with self._faults():
            self._connection.executemany(
                f"DELETE FROM {shape.name} WHERE {matched}",  # noqa: S608
                (_written(writers, key) for key in keys),
            )

    def fetch(self, shape: Shape, keys: Sequence[Key]) -> list[Row]:
        found: list[Row] = []
        writers = [_WRITERS.get(kind) for kind in shape.key_kinds]
        readers = [_READERS.get(kind) for kind in shape.kinds]
        marks = f"({', '.join('?' * len(shape.key))})"
        step = _VALUES // len(shape.key)
        for start in range(0, len(keys), step):
            some = keys[start : start + step]
            rows = self.execute(
                f"SELECT {', '.join(shape.columns)} FROM {shape.name} "  # noqa: S608
                f"WHERE ({', '.join(shape.key)}) IN (VALUES {', '.join([marks] * len(some))})",
                [value for key in some for value in _written(writers, key)],
            )
            found += [dict(zip(shape.columns, _written(readers, row), strict=True)) for row in rows]
        return found

    def scan(self, shape: Shape, where: str = "", values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        readers = [_READERS.get(kind) for kind in shape.kinds]
        statement = f"SELECT {', '.join(shape.columns)} FROM {shape.name} {where} ORDER BY {', '.join(shape.key)}"  # noqa: S608
        with self._faults(), contextlib.closing(self._connection.execute(statement, values)) as cursor:
            for row in cursor:
                yield _written(readers, row)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._faults():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def scratch(self) -> Iterator[Self]:
        with tempfile.TemporaryDirectory(prefix=f"{self._path.name}.", dir=self._path.parent) as folder:
            other = type(self)(Path(folder) / self._path.name)
            try:
                other.migrate()
                yield other
            finally:
                other.close()

    def drop(self) -> None:
        self._connection.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._connection = self._connect()

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    @property
    def _lock_path(self) -> Path:
        return self._path.with_name(self._path.name + ".lock")

    def _connect(self) -> sqlite3.Connection:
        with self._faults():
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            return connection

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.where}: {error}") from error


Converter = Callable[[Any], Any]


def _written(converters: Sequence[Converter | None], row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        [
            value if convert is None or value is None else convert(value)
            for convert, value in zip(converters, row, strict=True)
        ]
    )


def _padded(value: int) -> str:
    return f"{check_uint(value):0{DIGITS}d}"


_WRITERS: dict[str, Converter] = {"uint256": _padded}
_READERS: dict[str, Converter] = {"uint256": int, "flag": bool}
