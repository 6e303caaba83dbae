"""Read-only connections to an SQLite file, each used by one thread at a time; commits are noticed by polling."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from indexer.api.columns import shown_address, shown_bytes
from indexer.api.errors import busy, slow_query, unavailable
from indexer.api.paging import Bound
from indexer.api.readers.base import ROOM_S, STATEMENT_S, Fetch, Rows
from indexer.store.columns import DIGITS

_POLL_S = 0.1
_CONNECTIONS = 4
_STEPS = 10_000
"""Of SQLite's virtual machine between two looks at the clock."""


def _digits(text: str) -> str:
    return text.lstrip("0") or "0"


class _Connection:
    def __init__(self, path: Path) -> None:
        # A deleted and refilled file is another one under the same name.
        self.inode = path.stat().st_ino
        self._deadline = 0.0
        self._raw = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        self._raw.isolation_level = None
        self._raw.execute("PRAGMA query_only = ON")
        self._raw.set_progress_handler(self._is_late, _STEPS)

    def fetch(self, statement: str, values: Sequence[Any] = ()) -> Rows:
        self._deadline = time.monotonic() + STATEMENT_S
        return self._raw.execute(statement, values).fetchall()

    def close(self) -> None:
        self._raw.close()

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline


class SqliteReader:
    """A `Reader` of a file."""

    shown: Mapping[str, Any] = {
        "address": shown_address,
        "bytes": shown_bytes,
        "uint256": _digits,
        "flag": bool,
    }

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="read")
        self._free: asyncio.LifoQueue[_Connection | None] = asyncio.LifoQueue()

    async def open(self) -> None:
        # One is the watcher's for good.
        for _ in range(_CONNECTIONS + 1):
            self._free.put_nowait(None)

    async def close(self) -> None:
        while not self._free.empty():
            connection = self._free.get_nowait()
            if connection is not None:
                connection.close()
        self._threads.shutdown()

    async def fetch(self, statement: str, values: Sequence[Bound]) -> Rows:
        async with self._connection() as connection:
            return await self._run(connection, statement, _bound(values))

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Fetch]:
        async with self._connection() as connection:
            one_at_a_time = asyncio.Lock()

            async def fetch(statement: str, values: Sequence[Bound]) -> Rows:
                async with one_at_a_time:
                    return await self._run(connection, statement, _bound(values))

            await self._run(connection, "BEGIN", ())
            try:
                yield fetch
            finally:
                await self._run(connection, "ROLLBACK", ())

    async def changes(self) -> AsyncIterator[None]:
        while True:
            async with self._connection() as connection:
                version = None
                while version is None or self._is_current(connection):
                    found = await self._run(connection, "PRAGMA data_version", ())
                    if found != version:
                        version = found
                        yield
                    await asyncio.sleep(_POLL_S)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        with _faults():
            try:
                async with asyncio.timeout(ROOM_S):
                    connection = await self._free.get()
            except TimeoutError:
                raise busy("all of the database's connections are taken") from None
            try:
                if connection is None or not self._is_current(connection):
                    connection = _Connection(self._path)
                yield connection
            finally:
                self._free.put_nowait(connection)

    def _is_current(self, connection: _Connection) -> bool:
        try:
            return self._path.stat().st_ino == connection.inode
        except OSError:
            return False

    async def _run(self, connection: _Connection, statement: str, values: Sequence[Any]) -> Rows:
        with _faults():
            running = asyncio.get_running_loop().run_in_executor(self._threads, connection.fetch, statement, values)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                # The connection is given back only when no thread uses it.
                await asyncio.wait([running])
                raise


def _bound(values: Sequence[Bound]) -> list[Any]:
    return [f"{value:0{DIGITS}d}" if kind == "uint256" else value for kind, value in values]


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            raise slow_query() from error
        raise unavailable() from error
    except (sqlite3.Error, OSError) as error:
        raise unavailable() from error
