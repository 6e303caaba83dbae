"""Two GET routes for each resource: a page of rows, and one row by its key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from indexer.api import openapi
from indexer.api.conditions import etag_of, has_already, not_found, parameters_of, wait_for_block
from indexer.api.indexed import Indexed, Page, Pages
from indexer.api.paging import page_query, row_query
from indexer.api.resources import RESOURCES, Resource
from indexer.api.watcher import Watcher

PREFIX = "/v1"
_Read = Callable[[dict[str, str]], Awaitable[Page]]


class Rest:
    """The routes' common parts."""

    def __init__(self, pages: Pages, watcher: Watcher) -> None:
        self._pages = pages
        self._watcher = watcher

    def add_routes(self, app: FastAPI) -> None:
        """Those of every resource, and `/v1/status`."""
        app.add_api_route(f"{PREFIX}/status", self._status, openapi_extra=openapi.status(), operation_id="status")
        for resource in RESOURCES:
            path = f"{PREFIX}/{resource.name}"
            app.add_api_route(
                path, self._rows_of(resource), openapi_extra=openapi.rows(resource), operation_id=resource.name
            )
            app.add_api_route(
                "/".join((path, *(f"{{{name}}}" for name in resource.key))),
                self._row_of(resource),
                openapi_extra=openapi.row(resource),
                operation_id=f"{resource.name}_one",
            )

    def _rows_of(self, resource: Resource) -> Callable[[Request], Awaitable[Response]]:
        async def rows(request: Request) -> Response:
            parameters = parameters_of(request)
            await wait_for_block(self._watcher, parameters)
            query = page_query(resource, parameters)
            if (unchanged := await self._unchanged(request)) is not None:
                return unchanged
            page = await self._pages.read(query)
            return _answer(request, page.indexed, {"data": page.rows, "next": page.next})

        return rows

    def _row_of(self, resource: Resource) -> Callable[[Request], Awaitable[Response]]:
        async def row(request: Request) -> Response:
            parameters = parameters_of(request)
            await wait_for_block(self._watcher, parameters)
            query = row_query(resource, request.path_params, parameters)
            if (unchanged := await self._unchanged(request)) is not None:
                return unchanged
            page = await self._pages.read(query)
            if not page.rows:
                raise not_found(f"there is no such {resource.singular} at block {page.indexed.number}")
            return _answer(request, page.indexed, {"data": page.rows[0]})

        return row

    async def _status(self, request: Request) -> Response:
        parameters = parameters_of(request)
        await wait_for_block(self._watcher, parameters)
        return _answer(request, await self._pages.indexed(), {})

    async def _unchanged(self, request: Request) -> Response | None:
        if "if-none-match" not in request.headers:
            return None
        indexed = await self._pages.indexed()
        etag = etag_of(request, indexed)
        return Response(status_code=304, headers=_headers(indexed, etag)) if has_already(request, etag) else None


def _answer(request: Request, indexed: Indexed, content: dict[str, Any]) -> Response:
    body = orjson.dumps({**content, "block": indexed.shown()})
    return Response(body, headers=_headers(indexed, etag_of(request, indexed)), media_type="application/json")


def _headers(indexed: Indexed, etag: str) -> dict[str, str]:
    return {"X-Indexed-Block": str(indexed.number), "ETag": etag, "Cache-Control": "no-cache"}
