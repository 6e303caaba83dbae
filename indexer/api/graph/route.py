"""`POST /graphql`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

import orjson
from fastapi import FastAPI, Request, Response
from graphql import GraphQLError
from starlette.requests import ClientDisconnect

from indexer.api.conditions import parameters_of, wait_for_block
from indexer.api.errors import ApiError, bad_parameter
from indexer.api.graph.limits import check
from indexer.api.graph.schema import Snapshot, make_schema
from indexer.api.guard import ROUTE, place_of
from indexer.api.indexed import Pages
from indexer.api.readers import Reader
from indexer.api.watcher import Watcher

PATH = "/graphql"
MAX_BODY = 64 * 1024
BODY_S = 10.0

_log = logging.getLogger(__name__)


class _Asked(NamedTuple):
    query: str
    variables: dict[str, Any]
    operation: str | None


class Graph:
    """One document at a time a request, all of it from one snapshot."""

    def __init__(self, reader: Reader, pages: Pages, watcher: Watcher) -> None:
        self._reader = reader
        self._pages = pages
        self._watcher = watcher
        self._schema = make_schema()

    def add_route(self, app: FastAPI) -> None:
        """The one path."""
        app.add_route(PATH, self._answer, methods=["POST"], include_in_schema=False)

    async def _answer(self, request: Request) -> Response:
        request.scope[ROUTE] = PATH
        parameters = parameters_of(request)
        await wait_for_block(self._watcher, parameters)
        for param in parameters:
            raise bad_parameter(param[:100], "unknown here")
        asked = _read(await _body(request))
        check(asked.query, asked.variables, asked.operation)
        async with self._reader.snapshot() as fetch:
            indexed = await self._pages.indexed(fetch)
            result = await self._schema.execute(
                asked.query,
                variable_values=asked.variables,
                operation_name=asked.operation,
                context_value=Snapshot(self._pages, fetch, indexed.shown()),
            )
        errors = [_shown(error) for error in result.errors or ()]
        content = {"data": result.data, **({"errors": errors} if errors else {})}
        status = 400 if errors and result.data is None else 200
        headers = {"X-Indexed-Block": str(indexed.number), "Cache-Control": "no-store"}
        return Response(orjson.dumps(content), status, headers, media_type="application/json")


async def _body(request: Request) -> bytes:
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                found += part
                if len(found) > MAX_BODY:
                    raise ApiError(413, "body_too_long", f"the body has more than {MAX_BODY} bytes")
    except TimeoutError:
        raise ApiError(408, "body_too_slow", f"the body was not here after {BODY_S:g} s") from None
    except ClientDisconnect:
        raise ApiError(400, "body_cut", "the body ended before its time") from None
    return bytes(found)


def _read(body: bytes) -> _Asked:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ApiError(400, "bad_body", "the body is no JSON") from None
    if not isinstance(content, dict):
        raise ApiError(400, "bad_body", "the body is no JSON object")
    query, variables, operation = (content.get(name) for name in ("query", "variables", "operationName"))
    if not isinstance(query, str):
        raise bad_parameter("query", "not a string")
    if not isinstance(variables, dict | None):
        raise bad_parameter("variables", "not an object")
    if not isinstance(operation, str | None):
        raise bad_parameter("operationName", "not a string")
    return _Asked(query, variables or {}, operation)


def _shown(error: GraphQLError) -> dict[str, Any]:
    cause = error.original_error
    if isinstance(cause, ApiError):
        if cause.status >= 500:
            raise cause
        extensions = {"code": cause.code, "param": cause.param}
        return {"message": str(cause), "path": error.path, "extensions": extensions}
    if cause is not None and not isinstance(cause, GraphQLError) and error.path is not None:
        _log.error("a field failed unexpectedly: %s at %s", type(cause).__name__, place_of(cause))
        raise ApiError(500, "internal_error", "the indexer failed")
    return {"message": error.message, "path": error.path, "extensions": {"code": "bad_query"}}
