"""What stands before every route: limits, CORS, counts, and plain 500s."""

from __future__ import annotations

import logging
import time

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer.api.errors import ApiError
from indexer.api.metrics import Metrics
from indexer.api.rate_limit import RateLimit, client_of
from indexer.api.settings import ApiSettings

MAX_URL = 8192
CLIENT = "clawmarket.client"
"""The key in a request's scope of whom it is counted for."""
ROUTE = "clawmarket.route"
"""The key in a request's scope of what it is counted as; routes set it."""
_UNLIMITED = frozenset(("/health", "/ready", "/metrics"))
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "content-type, if-none-match",
    "Access-Control-Max-Age": "86400",
}
_EVERYWHERE = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"ETag, Retry-After, X-Indexed-Block"),
    (b"x-content-type-options", b"nosniff"),
)

_log = logging.getLogger(__name__)


class Guard:
    """The outermost application. What fails unexpectedly is logged by its place, without anybody's words."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, metrics: Metrics) -> None:
        self._app = app
        self._hops = settings.forwarded_hops
        self._limit = RateLimit(settings.rate_per_s)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_EVERYWHERE]
            await send(message)

        try:
            answer = self._answer(scope)
            await (answer or self._app)(scope, receive, sent)
        except Exception as error:  # noqa: BLE001
            _log.error("a request failed unexpectedly: %s at %s", type(error).__name__, place_of(error))
            if not status:
                await ApiError(500, "internal_error", "the indexer failed").response()(scope, receive, sent)
        finally:
            self._metrics.answered(scope.get(ROUTE, "other"), status, time.perf_counter() - started)

    def _answer(self, scope: Scope) -> Response | None:
        """What is answered without asking the application, if anything."""
        forwarded = ",".join(v.decode("latin-1") for k, v in scope["headers"] if k == b"x-forwarded-for")
        client = scope[CLIENT] = client_of((scope.get("client") or ("",))[0], forwarded, self._hops)
        if scope["path"] not in _UNLIMITED:
            wait = self._limit.take(client)
            if wait:
                return ApiError(429, "rate_limited", "too many requests", retry_after_s=wait).response()
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL:
            return ApiError(414, "url_too_long", f"the address is longer than {MAX_URL} bytes").response()
        if scope["method"] == "OPTIONS":
            return Response(status_code=204, headers=_PREFLIGHT)
        return None


def place_of(error: BaseException) -> str:
    """Where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
