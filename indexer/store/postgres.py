"""The tables in a schema of a Postgres database."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
from psycopg.adapt import Loader
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from indexer.exceptions import StoreError, WriterRunning
from indexer.store.copy_text import array_text, copy_text, type_of
from indexer.store.migrate import upgrade
from indexer.store.shapes import Key, Row, Shape

PARTITION_BLOCKS = 1_000_000
"""Blocks whose raw logs share a partition."""
_LOCK_PATIENCE_S = 5.0
_SCAN_ROWS = 5_000


def commit_channel(schema: str) -> str:
    """The channel on which readers hear of the writer's commits."""
    return f"{schema}_commits"


class _IntLoader(Loader):
    """Every NUMERIC of these tables is whole."""

    def load(self, data: bytes | bytearray | memoryview) -> int:
        return int(bytes(data))


class PostgresDatabase:
    """A `Database` on Postgres. The schema is made when it is missing."""

    def __init__(self, url: str, schema: str) -> None:
        self._url = url
        self._schema = schema
        self._partitions: set[int] = set()
        self._connection = self._connect()

    @property
    def where(self) -> str:
        parts = urlsplit(self._url)
        return f"postgresql://{parts.hostname or ''}{parts.path}, schema {self._schema}"

    def migrate(self) -> None:
        self.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
        engine = create_engine("postgresql+psycopg://", creator=self._connect_plainly, poolclass=NullPool)
        upgrade(engine)

    def has_tables(self) -> bool:
        return self.execute("SELECT to_regclass(?)", [f"{self._schema}.cursor"]) != [(None,)]

    def lock(self) -> None:
        # A killed writer's session ends a moment after it.
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        name = f"clawmarket indexer {self._schema}"
        while self.execute("SELECT pg_try_advisory_lock(hashtextextended(?, 0))", [name]) != [(True,)]:
            if time.monotonic() > deadline:
                raise WriterRunning(
                    f"another indexer writes to {self.where}: stop it first, or give this one another schema"
                )
            time.sleep(0.1)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._faults():
            try:
                with self._connection.transaction():
                    yield
                    self._connection.execute(f"NOTIFY {commit_channel(self._schema)}".encode())
            except BaseException:
                self._partitions.clear()
                raise

    def prepare_blocks(self, first: int, last: int) -> None:
        for number in range(first // PARTITION_BLOCKS, last // PARTITION_BLOCKS + 1):
            if number not in self._partitions:
                start, end = number * PARTITION_BLOCKS, (number + 1) * PARTITION_BLOCKS
                self.execute(
                    f"CREATE TABLE IF NOT EXISTS raw_log_{number} PARTITION OF raw_log "
                    f"FOR VALUES FROM ({start}) TO ({end})"
                )
                self._partitions.add(number)

    def insert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            with (
                self._faults(),
                self._connection.cursor() as cursor,
                cursor.copy(f"COPY {shape.name} ({', '.join(shape.columns)}) FROM STDIN") as copy,
            ):
                copy.write(copy_text(shape.kinds, rows))

    def upsert(self, shape: Shape, rows: Sequence[Row]) -> None:
        if not rows:
            return
        changed = [f"{name} = excluded.{name}" for name in shape.columns if name not in shape.key]
        action = f"DO UPDATE SET {', '.join(changed)}" if changed else "DO NOTHING"
        self.execute(
            f"INSERT INTO {shape.name} ({', '.join(shape.columns)}) SELECT * FROM unnest({_arrays(shape.kinds)}) "  # noqa: S608
            f"ON CONFLICT ({', '.join(shape.key)}) {action}",
            [
                array_text(kind, [row[name] for row in rows])
                for name, kind in zip(shape.columns, shape.kinds, strict=True)
            ],
        )

    def delete(self, shape: Shape, keys: Sequence[Key]) -> None:
        if keys:
            matched = " AND ".join(f"t.{name} = k.{name}" for name in shape.key)
            self.execute(
                f"DELETE FROM {shape.name} t USING unnest({_arrays(shape.key_kinds)}) "  # noqa: S608
                f"AS k ({', '.join(shape.key)}) WHERE {matched}",
                _key_arrays(shape, keys),
            )

    def fetch(self, shape: Shape, keys: Sequence[Key]) -> list[Row]:
        if not keys:
            return []
        columns = ", ".join(f"t.{name}" for name in shape.columns)
        rows = self.execute(
            f"SELECT {columns} FROM {shape.name} t JOIN unnest({_arrays(shape.key_kinds)}) "  # noqa: S608
            f"AS k ({', '.join(shape.key)}) USING ({', '.join(shape.key)})",
            _key_arrays(shape, keys),
        )
        return [dict(zip(shape.columns, row, strict=True)) for row in rows]

    def scan(self, shape: Shape, where: str = "", values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        statement = f"SELECT {', '.join(shape.columns)} FROM {shape.name} {where} ORDER BY {', '.join(shape.key)}"  # noqa: S608
        with self._faults(), self._connection.cursor(f"scan_{shape.name}") as cursor:
            cursor.itersize = _SCAN_ROWS
            cursor.execute(statement.replace("?", "%s").encode(), values)
            yield from cursor

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._faults():
            cursor = self._connection.execute(statement.replace("?", "%s").encode(), values)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def scratch(self) -> Iterator[Self]:
        other = type(self)(self._url, f"{self._schema}_scratch")
        try:
            other.lock()
            other.drop()
            other.migrate()
            yield other
        finally:
            other.drop()
            other.close()

    def drop(self) -> None:
        self.execute(f"DROP SCHEMA IF EXISTS {self._schema} CASCADE")
        self._partitions.clear()

    def close(self) -> None:
        self._connection.close()

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        with self._faults():
            connection = self._connect_plainly()
            connection.autocommit = True
            connection.adapters.register_loader("numeric", _IntLoader)
            return connection

    def _connect_plainly(self) -> psycopg.Connection[tuple[Any, ...]]:
        options = f"-c search_path={self._schema} -c client_min_messages=warning -c timezone=UTC"
        return psycopg.connect(self._url, options=options)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise StoreError(f"{self.where}: {str(error).strip()}") from error


def _arrays(kinds: Sequence[str]) -> str:
    return ", ".join(f"?::{type_of(kind)}[]" for kind in kinds)


def _key_arrays(shape: Shape, keys: Sequence[Key]) -> list[str]:
    return [array_text(kind, column) for kind, column in zip(shape.key_kinds, zip(*keys, strict=True), strict=True)]
