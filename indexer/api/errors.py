"""Every error in the shape of the market's other services: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math

import orjson
from starlette.responses import Response

_TYPES = {404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused or cannot be answered; `param` is the parameter at fault."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def response(self) -> Response:
        """The whole answer that says so."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return Response(orjson.dumps({"error": error}), self.status, headers, media_type="application/json")


def bad_parameter(param: str, message: str) -> ApiError:
    """A parameter that cannot be read."""
    return ApiError(400, "bad_parameter", f"{param}: {message}", param=param)


def busy(message: str) -> ApiError:
    """No room now."""
    return ApiError(503, "busy", message, retry_after_s=1)


def unavailable() -> ApiError:
    """The database cannot be read."""
    return ApiError(503, "database_unavailable", "the database cannot be read", retry_after_s=5)


def slow_query() -> ApiError:
    """A statement was ended by its time limit."""
    message = "the query takes too long: filter more narrowly, or ask again later"
    return ApiError(503, "query_timeout", message, retry_after_s=5)
