"""The HTTP interface."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from indexer.api import openapi
from indexer.api.computed import Computed
from indexer.api.conditions import not_found
from indexer.api.errors import ApiError
from indexer.api.graph.route import Graph
from indexer.api.guard import Guard
from indexer.api.indexed import Pages
from indexer.api.live import Live
from indexer.api.metrics import Metrics
from indexer.api.readers import Reader
from indexer.api.rest import Rest
from indexer.api.settings import ApiSettings
from indexer.api.watcher import WAIT_S, Watcher
from indexer.store.migrate import newest_version


def create_app(reader: Reader, settings: ApiSettings, wait_s: float = WAIT_S) -> FastAPI:
    """Reads through `reader`, which it opens and closes; `wait_s` is how long `min_block` is waited for."""
    pages = Pages(reader)
    watcher = Watcher(reader, pages, wait_s)
    metrics = Metrics(watcher)
    version = newest_version()

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        await reader.open()
        watching = asyncio.create_task(watcher.run())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await reader.close()

    app = FastAPI(
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=Response,
        middleware=[Middleware(Guard, settings=settings, metrics=metrics)],
    )
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _unroutable)
    Computed(reader, pages, watcher).add_routes(app)
    Live(pages, watcher, metrics).add_route(app)
    Rest(pages, watcher).add_routes(app)
    Graph(reader, pages, watcher).add_route(app)

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(_: Request) -> Response:
        try:
            found = await reader.fetch("SELECT version_num FROM alembic_version", ())
            if found != [(version,)]:
                return _json({"status": "the tables are of another version: run this program's `indexer run`"}, 503)
            indexed = await pages.indexed()
        except ApiError as error:
            return _json({"status": str(error)}, 503)
        lag_s = max(0.0, time.time() - indexed.time)
        is_late = lag_s > settings.max_lag_s
        shown = {"status": "the indexed block is too old" if is_late else "ok", "lag_s": round(lag_s, 1)}
        return _json({**shown, "block": indexed.shown()}, 503 if is_late else 200)

    async def figures(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, endpoint in (("/health", health), ("/ready", ready), ("/metrics", figures)):
        app.add_route(path, endpoint, include_in_schema=False)
    app.openapi = openapi.document  # type: ignore[method-assign]
    return app


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - what it is registered for
    return error.response()


async def _unroutable(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    place = f"{request.method} {request.url.path[:200]}"
    refusal = not_found(f"there is no route {place}")
    if error.status_code == 405:
        refusal = ApiError(405, "method_not_allowed", f"there is no route {place}")
    response = refusal.response()
    response.headers.update(error.headers or {})
    return response


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
