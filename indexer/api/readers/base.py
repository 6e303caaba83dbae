"""What both databases can do for readers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from indexer.api.paging import Bound

Rows = list[tuple[Any, ...]]
Fetch = Callable[[str, Sequence[Bound]], Awaitable[Rows]]
"""Runs one statement, which sees one snapshot; `?` stands for each value."""

STATEMENT_S = 3.0
"""A statement that takes longer is ended: its query needs a narrower filter."""
ROOM_S = 2.0
"""How long a request waits for a connection."""
CONNECTIONS = 8


class Reader(Protocol):
    """Connections to a database with the indexer's tables. Faults raise ApiError, 503."""

    shown: Mapping[str, Callable[[Any], Any]]
    """How a value is shown in JSON, by its column's kind, where the driver does not give it that way."""

    async def open(self) -> None:
        """Before anything else, on the event loop. The database may not be there yet."""

    async def close(self) -> None:
        """Ends the connections."""

    async def fetch(self, statement: str, values: Sequence[Bound]) -> Rows:
        """A `Fetch` of its own snapshot."""

    def snapshot(self) -> AbstractAsyncContextManager[Fetch]:
        """A `Fetch` whose statements all see the same snapshot."""

    def changes(self) -> AsyncIterator[None]:
        """Yields whenever the writer may have committed, and once at first."""
