"""A pool of read-only connections to Postgres; the writer's commits are heard by LISTEN."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.adapt import Loader
from psycopg.errors import QueryCanceled
from psycopg.types.numeric import Int8
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from indexer.api.columns import shown_address, shown_bytes
from indexer.api.errors import busy, slow_query, unavailable
from indexer.api.paging import Bound
from indexer.api.readers.base import CONNECTIONS, ROOM_S, STATEMENT_S, Fetch, Rows
from indexer.store.postgres import commit_channel

_HEARTBEAT_S = 5.0
_BINDERS = {"number": Int8, "uint256": Decimal}

_Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class _TextLoader(Loader):
    """A NUMERIC as its digits."""

    def load(self, data: bytes | bytearray | memoryview) -> str:
        return bytes(data).decode()


class PostgresReader:
    """A `Reader` of a schema."""

    shown: Mapping[str, Any] = {"address": shown_address, "bytes": shown_bytes}

    def __init__(self, url: str, schema: str) -> None:
        self._url = url
        self._schema = schema
        self._pool = AsyncConnectionPool(
            url,
            kwargs=self._options(),
            configure=_configure,
            min_size=2,
            max_size=CONNECTIONS,
            timeout=ROOM_S,
            open=False,
        )

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def fetch(self, statement: str, values: Sequence[Bound]) -> Rows:
        with _faults():
            async with self._pool.connection() as connection:
                return await _fetch(connection, statement, values)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Fetch]:
        with _faults():
            async with self._pool.connection() as connection:
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                try:
                    yield lambda statement, values: _fetch(connection, statement, values)
                finally:
                    await connection.execute("ROLLBACK")

    async def changes(self) -> AsyncIterator[None]:
        with _faults():
            connection = await psycopg.AsyncConnection.connect(self._url, **self._options())
            async with connection:
                await connection.execute(f"LISTEN {commit_channel(self._schema)}")
                while True:
                    yield
                    async for _ in connection.notifies(timeout=_HEARTBEAT_S, stop_after=1):
                        pass

    def _options(self) -> dict[str, Any]:
        options = (
            f"-c search_path={self._schema} -c timezone=UTC -c default_transaction_read_only=on "
            f"-c statement_timeout={int(STATEMENT_S * 1000)}"
        )
        return {"options": options, "autocommit": True}


async def _configure(connection: _Connection) -> None:
    connection.adapters.register_loader("numeric", _TextLoader)


async def _fetch(connection: _Connection, statement: str, values: Sequence[Bound]) -> Rows:
    bound = [_BINDERS[kind](value) if kind in _BINDERS else value for kind, value in values]
    with _faults():
        cursor = await connection.execute(_placed(statement), bound)
        return await cursor.fetchall()


@lru_cache(maxsize=1024)
def _placed(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise busy("all of the database's connections are taken") from error
    except QueryCanceled as error:
        raise slow_query() from error
    except psycopg.Error as error:
        raise unavailable() from error
