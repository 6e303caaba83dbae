"""The routes of what is computed from many rows, and not read from one table."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from indexer.api import reputation, statistics
from indexer.api.conditions import MIN_BLOCK, parameters_of, wait_for_block
from indexer.api.errors import ApiError, bad_parameter
from indexer.api.guard import ROUTE
from indexer.api.indexed import Indexed, Pages
from indexer.api.kept import Kept
from indexer.api.paging import DEFAULT_LIMIT, MAX_LIMIT
from indexer.api.readers import Reader
from indexer.api.watcher import Watcher
from protocol.address import to_address
from protocol.exceptions import InvalidField

REPUTATION, STATISTICS = "/v1/reputation", "/v1/statistics"
_MAX_NUMBER = 2**63 - 1


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
        provider, token = _number(parameters, "provider"), _address(parameters, "token")
        limit = _limit(parameters)
        indexed, found = await self._reputation.get(newest=newest)
        return _answer(indexed, found.rows(provider, token, limit))

    async def _figures(self, request: Request) -> Response:
        parameters, newest = await self._begin(request, STATISTICS)
        kind, token = _number(parameters, "kind"), _address(parameters, "token")
        model = parameters.pop("model", None)
        limit = _limit(parameters)
        indexed, found = await self._statistics.get(newest=newest)
        return _answer(indexed, found.rows(kind, model, token, limit))

    async def _begin(self, request: Request, route: str) -> tuple[dict[str, str], bool]:
        """The parameters, and whether a block was asked for, which is indexed now. Raises ApiError."""
        request.scope[ROUTE] = route
        parameters = parameters_of(request)
        newest = MIN_BLOCK in parameters
        await wait_for_block(self._watcher, parameters)
        return parameters, newest


def _number(parameters: dict[str, str], name: str) -> int | None:
    text = parameters.pop(name, None)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _MAX_NUMBER):
        raise bad_parameter(name, "not a number from 0 on")
    return int(text)


def _address(parameters: dict[str, str], name: str) -> bytes | None:
    text = parameters.pop(name, None)
    if text is None:
        return None
    try:
        return bytes.fromhex(to_address(text, name)[2:])
    except InvalidField as error:
        raise bad_parameter(name, "not an address") from error


def _limit(parameters: dict[str, str]) -> int:
    """Takes the last parameter. Raises ApiError, also for one that is not known."""
    limit = _number(parameters, "limit")
    for name in parameters:
        raise ApiError(400, "unknown_parameter", f"there is no parameter {name[:100]!r} here", param=name[:100])
    if limit is not None and not 1 <= limit <= MAX_LIMIT:
        raise bad_parameter("limit", f"from 1 to {MAX_LIMIT}")
    return limit or DEFAULT_LIMIT


def _answer(indexed: Indexed, rows: list[dict[str, Any]]) -> Response:
    headers = {"X-Indexed-Block": str(indexed.number), "Cache-Control": "no-cache"}
    body = orjson.dumps({"data": rows, "block": indexed.shown()})
    return Response(body, headers=headers, media_type="application/json")
