"""For each resource a page of rows, and one row by its key."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from indexer.api.answers import Answers
from indexer.api.conditions import etag_of, has_already, not_found, parameters_of, resource_of, wait_for_block
from indexer.api.guard import ROUTE
from indexer.api.indexed import Indexed, Pages
from indexer.api.paging import page_query, row_query
from indexer.api.resources import Resource
from indexer.api.watcher import Watcher

PREFIX = "/v1"


class Rest:
    """The routes' common parts."""

    def __init__(self, pages: Pages, watcher: Watcher) -> None:
        self._pages = pages
        self._watcher = watcher
        self._answers = Answers(watcher)

    def add_routes(self, app: FastAPI) -> None:
        """`/v1/status`, and for all resources together a page's route and a row's: many routes are slow to search."""
        app.add_route(f"{PREFIX}/status", self._status, include_in_schema=False)
        app.add_route(f"{PREFIX}/{{resource}}", self._rows, include_in_schema=False)
        app.add_route(f"{PREFIX}/{{resource}}/{{key:path}}", self._row, include_in_schema=False)

    async def _rows(self, request: Request) -> Response:
        resource = resource_of(request)
        request.scope[ROUTE] = f"{PREFIX}/{resource.name}"
        if (known := self._answers.find(request)) is not None:
            return _unless_had(request, known)
        parameters = parameters_of(request)
        await wait_for_block(self._watcher, parameters)
        query = page_query(resource, parameters)
        if (unchanged := await self._unchanged(request, resource)) is not None:
            return unchanged
        page = await self._pages.read(query)
        return self._answer(request, resource, page.indexed, {"data": page.rows, "next": page.next})

    async def _row(self, request: Request) -> Response:
        resource = resource_of(request)
        request.scope[ROUTE] = f"{PREFIX}/{resource.name}/…"
        if (known := self._answers.find(request)) is not None:
            return _unless_had(request, known)
        parts = request.path_params["key"].split("/")
        if len(parts) != len(resource.key):
            raise not_found(f"a {resource.singular} is named by {'/'.join(resource.key)}")
        parameters = parameters_of(request)
        await wait_for_block(self._watcher, parameters)
        query = row_query(resource, dict(zip(resource.key, parts, strict=True)), parameters)
        if (unchanged := await self._unchanged(request, resource)) is not None:
            return unchanged
        page = await self._pages.read(query)
        if not page.rows:
            raise not_found(f"there is no such {resource.singular} at block {page.indexed.number}")
        return self._answer(request, resource, page.indexed, {"data": page.rows[0]})

    async def _status(self, request: Request) -> Response:
        request.scope[ROUTE] = f"{PREFIX}/status"
        parameters = parameters_of(request)
        await wait_for_block(self._watcher, parameters)
        return _answer(await self._pages.indexed(), {}, None)

    def _answer(self, request: Request, resource: Resource, indexed: Indexed, content: dict[str, Any]) -> Response:
        if resource.is_cache:
            return _answer(indexed, content, None)
        answer = _answer(indexed, content, etag_of(request, indexed))
        self._answers.keep(request, answer, indexed)
        return answer

    async def _unchanged(self, request: Request, resource: Resource) -> Response | None:
        if resource.is_cache or "if-none-match" not in request.headers:
            return None
        indexed = await self._pages.indexed()
        etag = etag_of(request, indexed)
        return Response(status_code=304, headers=_headers(indexed, etag)) if has_already(request, etag) else None


def _unless_had(request: Request, answer: Response) -> Response:
    if "if-none-match" not in request.headers or not has_already(request, answer.headers["etag"]):
        return answer
    headers = {name: answer.headers[name] for name in ("x-indexed-block", "etag", "cache-control")}
    return Response(status_code=304, headers=headers)


def _answer(indexed: Indexed, content: dict[str, Any], etag: str | None) -> Response:
    body = orjson.dumps({**content, "block": indexed.shown()})
    return Response(body, headers=_headers(indexed, etag), media_type="application/json")


def _headers(indexed: Indexed, etag: str | None) -> dict[str, str]:
    headers = {"X-Indexed-Block": str(indexed.number), "Cache-Control": "no-cache"}
    return headers if etag is None else {**headers, "ETag": etag}
