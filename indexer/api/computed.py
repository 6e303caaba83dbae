"""The routes of what is computed from many rows, and not read from one table."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from indexer.api import reputation, statistics
from indexer.api.columns import Column
from indexer.api.conditions import MIN_BLOCK, parameters_of, wait_for_block
from indexer.api.guard import ROUTE
from indexer.api.indexed import Indexed, Pages
from indexer.api.kept import Kept
from indexer.api.paging import refuse, take_limit
from indexer.api.readers import Reader
from indexer.api.watcher import Watcher

REPUTATION, STATISTICS = "/v1/reputation", "/v1/statistics"
_PROVIDER, _KIND = (Column(name, "number", is_nullable=False) for name in ("provider", "kind"))
_MODEL, _TOKEN = Column("model", "text", is_nullable=True), Column("token", "address", is_nullable=False)


class Computed:
    """Reputation and statistics."""

    def __init__(self, reader: Reader, pages: Pages, watcher: Watcher) -> None:
        self._watcher = watcher
        self._reputation = Kept(reader, pages, watcher, reputation.compute)
        self._statistics = Kept(reader, pages, watcher, statistics.compute)

    def add_routes(self, app: FastAPI) -> None:
        """Before those of the tables, which take any name."""
        app.add_route(REPUTATION, self._reputations, include_in_schema=False)
        app.add_route(STATISTICS, self._figures, include_in_schema=False)

    async def _reputations(self, request: Request) -> Response:
        parameters, newest = await self._begin(request, REPUTATION)
        provider, token = _take(parameters, _PROVIDER), _take(parameters, _TOKEN)
        limit = take_limit(parameters)
        refuse("reputation", parameters)
        indexed, found = await self._reputation.get(newest=newest)
        return _answer(indexed, found.rows(provider, token, limit))

    async def _figures(self, request: Request) -> Response:
        parameters, newest = await self._begin(request, STATISTICS)
        kind, model, token = (_take(parameters, column) for column in (_KIND, _MODEL, _TOKEN))
        limit = take_limit(parameters)
        refuse("statistics", parameters)
        indexed, found = await self._statistics.get(newest=newest)
        return _answer(indexed, found.rows(kind, model, token, limit))

    async def _begin(self, request: Request, route: str) -> tuple[dict[str, str], bool]:
        """The parameters, and whether a block was asked for, which is indexed now. Raises ApiError."""
        request.scope[ROUTE] = route
        parameters = parameters_of(request)
        newest = MIN_BLOCK in parameters
        await wait_for_block(self._watcher, parameters)
        return parameters, newest


def _take(parameters: dict[str, str], column: Column) -> Any:
    """A filter's value, None if it is not there. Raises ApiError."""
    text = parameters.pop(column.name, None)
    return None if text is None else column.parse(text, column.name)


def _answer(indexed: Indexed, rows: list[dict[str, Any]]) -> Response:
    headers = {"X-Indexed-Block": str(indexed.number), "Cache-Control": "no-cache"}
    body = orjson.dumps({"data": rows, "block": indexed.shown()})
    return Response(body, headers=headers, media_type="application/json")
