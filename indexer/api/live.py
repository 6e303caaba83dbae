"""Live queries: the first page of a query as server-sent events, once at first and then whenever it changes.

Queries that are alike are run once for all who listen. Who reads slowly misses states, never the newest one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import orjson
from fastapi import FastAPI, Request, Response
from sse_starlette import EventSourceResponse

from indexer.api.conditions import parameters_of, resource_of, wait_for_block
from indexer.api.errors import ApiError, bad_parameter
from indexer.api.guard import CLIENT, ROUTE
from indexer.api.indexed import Pages
from indexer.api.metrics import Metrics
from indexer.api.paging import Query, page_query
from indexer.api.watcher import Watcher

PREFIX = "/v1/live"
MAX_LIVE = 512
MAX_PER_CLIENT = 32
_AT_ONCE = 2
"""Live queries that run beside each other, so that a new block leaves room for other requests."""
_REST_S = 1.0
_PING_S = 15


class _Feed:
    """One query for all its listeners; `event` is its newest state."""

    def __init__(self) -> None:
        self.listeners = 0
        self.event = b""
        self.published = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def publish(self, event: bytes) -> None:
        self.event = event
        self.published.set()
        self.published = asyncio.Event()


class Live:
    """The live queries of one process."""

    def __init__(self, pages: Pages, watcher: Watcher, metrics: Metrics) -> None:
        self._pages = pages
        self._watcher = watcher
        self._metrics = metrics
        self._feeds: dict[tuple[object, ...], _Feed] = {}
        self._clients: Counter[str] = Counter()
        self._room = asyncio.Semaphore(_AT_ONCE)

    def add_route(self, app: FastAPI) -> None:
        """One for all resources; to be added before those of REST."""
        app.add_route(f"{PREFIX}/{{resource}}", self._live, include_in_schema=False)

    async def _live(self, request: Request) -> Response:
        resource = resource_of(request)
        request.scope[ROUTE] = f"{PREFIX}/{resource.name}"
        parameters = parameters_of(request)
        if "after" in parameters:
            raise bad_parameter("after", "a live query is of the first page")
        await wait_for_block(self._watcher, parameters)
        query = page_query(resource, parameters)
        client = request.scope[CLIENT]
        indexed = await self._pages.indexed()
        if self._clients.total() >= MAX_LIVE or self._clients[client] >= MAX_PER_CLIENT:
            raise ApiError(429, "too_many_live", "too many live queries are open", retry_after_s=10)
        headers = {"X-Indexed-Block": str(indexed.number), "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return EventSourceResponse(self._events(query, client), headers=headers, ping=_PING_S)

    async def _events(self, query: Query, client: str) -> AsyncIterator[bytes]:
        key = (query.statement, *query.values)
        feed = self._feeds.setdefault(key, _Feed())
        feed.listeners += 1
        self._clients[client] += 1
        self._metrics.live.inc()
        if feed.task is None:
            feed.task = asyncio.create_task(self._run(feed, query))
        sent = b""
        try:
            while True:
                published = feed.published
                if feed.event != sent:
                    sent = feed.event
                    yield sent
                else:
                    await published.wait()
        finally:
            self._metrics.live.dec()
            self._clients[client] -= 1
            self._clients += Counter()  # drops those without any
            feed.listeners -= 1
            if not feed.listeners:
                del self._feeds[key]
                feed.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await feed.task

    async def _run(self, feed: _Feed, query: Query) -> None:
        last: bytes | None = None
        while True:
            change = self._watcher.change
            try:
                async with self._room:
                    page = await self._pages.read(query)
            except ApiError:
                await asyncio.sleep(_REST_S)
                continue
            rows = orjson.dumps(page.rows)
            if rows != last:
                last = rows
                block = orjson.dumps(page.indexed.shown())
                feed.publish(
                    b'event: rows\r\nid: %d\r\ndata: {"data":%b,"block":%b}\r\n\r\n'
                    % (page.indexed.number, rows, block)
                )
            await change.wait()
