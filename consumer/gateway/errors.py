"""Every error in OpenAI's shape, with a status that its clients know what to do with.

`x-should-retry` tells them: every route was tried already, so only what lacks room now is worth asking again.
"""

import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from consumer.gateway.events import FailureClass, RouteFailed

_TYPES = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}
_WORTH_RETRYING = (429, 503)


def bad_request(message: str, *, code: str, param: str | None = None, status: int = 400) -> RouteFailed:
    """A fault of the application's."""
    return RouteFailed(FailureClass.BAD_REQUEST, message, status=status, code=code, param=param)


def error_body(failed: RouteFailed) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = _TYPES.get(failed.status, "invalid_request_error" if failed.status < 500 else "server_error")
    return {"error": {"message": str(failed), "type": kind, "param": failed.param, "code": failed.code}}


def error_response(failed: RouteFailed) -> Response:
    """The whole answer that says so."""
    headers = {"x-should-retry": str(failed.status in _WORTH_RETRYING).lower()}
    if failed.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(failed.retry_after_s))
    return JSONResponse(error_body(failed), failed.status, headers)


async def on_route_failed(_: Request, error: Exception) -> Response:
    """Starlette's handler of RouteFailed."""
    assert isinstance(error, RouteFailed)  # noqa: S101 - what it is registered for
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's handler of what its own routing refuses."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    place = f"{request.method} {request.url.path[:200]}"
    code = "method_not_allowed" if error.status_code == 405 else "unknown_url"
    response = error_response(bad_request(f"there is no route {place}", code=code, status=error.status_code))
    response.headers.update(error.headers or {})
    return response
