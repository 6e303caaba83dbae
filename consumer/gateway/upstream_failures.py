"""What another server's refusals and silences mean. Its keys and our users' words are in none of the messages."""

import json
from typing import Any

import httpx

from consumer.gateway.events import FailureClass, RouteFailed

_CLASSES = {
    400: FailureClass.BAD_REQUEST,
    401: FailureClass.AUTH,
    402: FailureClass.MONEY,
    403: FailureClass.AUTH,
    404: FailureClass.BAD_REQUEST,
    408: FailureClass.TIMEOUT,
    413: FailureClass.BAD_REQUEST,
    422: FailureClass.BAD_REQUEST,
    429: FailureClass.RATE_LIMIT,
    504: FailureClass.TIMEOUT,
}
_SHOWN = (FailureClass.BAD_REQUEST, FailureClass.RATE_LIMIT)
"""Classes whose status the application gets to see; what else goes wrong is ours, or our key's."""
_MAX_TEXT = 500


def refused(route: str, status: int, headers: httpx.Headers, body: bytes) -> RouteFailed:
    """An answer other than 200."""
    failure = _CLASSES.get(status, FailureClass.OVERLOAD if status >= 500 else FailureClass.BAD_OUTPUT)
    error = _error(body)
    if failure is FailureClass.RATE_LIMIT and error.get("code") == "insufficient_quota":
        failure = FailureClass.MONEY
    if failure not in _SHOWN:
        return RouteFailed(failure, f"{route} answers with status {status}", retry_after_s=_retry_after(headers))
    param = error.get("param")
    return RouteFailed(
        failure,
        _text(error.get("message")) or f"{route} answers with status {status}",
        status=status,
        code=_text(error.get("code")),
        param=param[:_MAX_TEXT] if isinstance(param, str) else None,
        retry_after_s=_retry_after(headers),
    )


def said(route: str, error: Any) -> RouteFailed:
    """An error in the middle of a stream."""
    code = error.get("code") if isinstance(error, dict) else None
    failure = _CLASSES.get(code, FailureClass.OVERLOAD) if isinstance(code, int) else FailureClass.OVERLOAD
    if failure is FailureClass.BAD_REQUEST:
        failure = FailureClass.BAD_OUTPUT  # it had taken the request
    return RouteFailed(failure, f"{route} broke off with an error")


def silent(route: str, error: httpx.HTTPError | TimeoutError) -> RouteFailed:
    """A connection that failed."""
    if isinstance(error, httpx.TimeoutException | TimeoutError) and not isinstance(error, httpx.ConnectTimeout):
        return RouteFailed(FailureClass.TIMEOUT, f"{route} sent nothing for too long", status=504)
    return RouteFailed(FailureClass.UNREACHABLE, f"{route} cannot be reached or broke off: {type(error).__name__}")


def nonsense(route: str, what: str) -> RouteFailed:
    """Something that is no answer."""
    return RouteFailed(FailureClass.BAD_OUTPUT, f"{route} sent {what}")


def _error(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _text(value: Any) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _retry_after(headers: httpx.Headers) -> float | None:
    value = headers.get("retry-after", "")
    return float(value) if value.isdecimal() and len(value) < 7 else None
