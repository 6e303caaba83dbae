"""What both databases can do. One connection, one thread, one writer.

Statements are written with `?` for their values. Rows travel as tuples in the table's column order when they are only
inserted, as dictionaries when they are changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from indexer.store.shapes import Key, Row, Shape


class Database(Protocol):
    """A database with the indexer's tables, or without them before `migrate`. Faults raise StoreError."""

    @property
    def where(self) -> str:
        """The database as it may be shown: no password."""

    def migrate(self) -> None:
        """Bring the tables to this program's version, making them when there are none."""

    def has_tables(self) -> bool:
        """Whether `migrate` ever ran here."""

    def lock(self) -> None:
        """Become the one writer until `close`. Raises WriterRunning."""

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, and durable at the end."""

    def prepare_blocks(self, first: int, last: int) -> None:
        """Make room for the raw logs of these blocks."""

    def insert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows whose keys are new."""

    def upsert(self, shape: Shape, rows: Sequence[Row]) -> None:
        """Insert rows, or replace those of the same keys."""

    def delete(self, shape: Shape, keys: Sequence[Key]) -> None:
        """Delete rows by key."""

    def fetch(self, shape: Shape, keys: Sequence[Key]) -> list[Row]:
        """The rows that exist of these keys, in no order."""

    def scan(self, shape: Shape, where: str = "", values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows in the order of their keys, a few at a time. Only inside of a transaction."""

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Any other statement; its rows as the driver gives them."""

    def scratch(self) -> AbstractContextManager[Self]:
        """An empty database beside this one, with tables, gone afterwards."""

    def drop(self) -> None:
        """Delete all tables."""

    def close(self) -> None:
        """Close the connection and give up the lock."""
