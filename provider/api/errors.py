"""Every error in OpenAI's shape, with a status that its clients know what to do with.

`x-should-retry` tells them: only what was refused for lack of room, before any charge, is worth asking again.
"""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.exceptions import InvalidHeader, UnsupportedVersion
from protocol.headers import RefusalCode, ResponseHeaders
from provider.exceptions import LedgerError, Refusal
from provider.service import AlreadyServed
from provider.upkeep import place_of

_log = logging.getLogger(__name__)
_TYPES = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}
_WORTH_RETRYING = (429, 503)


def error_body(refusal: Refusal) -> dict[str, Any]:
    """A refusal in OpenAI's shape, its figures under `details`."""
    kind = _TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    details = dict(refusal.details)
    param = details.pop("param", None)
    error: dict[str, Any] = {"message": str(refusal), "type": kind, "param": param, "code": str(refusal.code)}
    if details:
        error["details"] = details
    return {"error": error}


def error_response(refusal: Refusal, headers: dict[str, str] | None = None, *, is_charged: bool = False) -> Response:
    """The answer that carries a refusal; `is_charged` when the request had been admitted."""
    code = refusal.code if isinstance(refusal.code, RefusalCode) else None
    again = refusal.status in _WORTH_RETRYING and not is_charged
    sent = {"x-should-retry": str(again).lower(), **(headers or ResponseHeaders(refusal=code).encode())}
    if again and "retry_after_s" in refusal.details:
        sent["Retry-After"] = str(refusal.details["retry_after_s"])
    return JSONResponse(error_body(refusal), refusal.status, sent)


def refusal_of(error: InvalidHeader) -> Refusal:
    """A market header that cannot be read."""
    unsupported = isinstance(error, UnsupportedVersion)
    return Refusal(RefusalCode.UNSUPPORTED_VERSION if unsupported else RefusalCode.MALFORMED, str(error))


def add_handlers(app: FastAPI) -> None:
    """Every way in which a route can fail ends in one of these."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return error_response(refusal)

    @app.exception_handler(InvalidHeader)
    async def bad_header(_: Request, error: InvalidHeader) -> Response:
        return error_response(refusal_of(error))

    @app.exception_handler(AlreadyServed)
    async def repeated(_: Request, served: AlreadyServed) -> Response:
        refusal = Refusal(
            "already_served", "this request was answered before: only its receipt is given again", status=409
        )
        return error_response(refusal, ResponseHeaders(receipt=served.signed).encode())

    @app.exception_handler(LedgerError)
    async def no_ledger(_: Request, error: LedgerError) -> Response:
        return error_response(Refusal("ledger_unavailable", str(error), status=503))

    @app.exception_handler(RequestValidationError)
    async def bad_path(_: Request, error: RequestValidationError) -> Response:
        place = str(error.errors()[0]["loc"][-1])
        return error_response(Refusal("invalid_request", f"{place} is not a number", status=400, param=place))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        method, path = request.method, request.url.path[:200]
        if error.status_code == 405:
            message, code = f"{path} does not take {method}", "method_not_allowed"
        else:
            message, code = f"there is no route {method} {path}", "unknown_url"
        response = error_response(Refusal(code, message, status=error.status_code))
        response.headers.update(error.headers or {})
        return response

    app.add_middleware(_NoSecretsInFailures)


class _NoSecretsInFailures:
    """Whatever else goes wrong: the client gets a plain 500, the log a place, and neither anybody's words."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return  # nobody is there to be told
        except Exception as error:  # noqa: BLE001
            _log.error("a request failed unexpectedly: %s", place_of(error))
            if scope["type"] == "http" and not has_started:
                refusal = Refusal("internal_error", "the provider failed; nothing was charged", status=500)
                await error_response(refusal)(scope, receive, send)
