"""What stands before every route: the Host header, against pages that rebind their name to this machine; plain 500s."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consumer.gateway.app_request import header
from consumer.gateway.errors import bad_request, error_response
from consumer.gateway.events import FailureClass, RouteFailed
from consumer.gateway.settings import GatewaySettings

_log = logging.getLogger(__name__)


class Guard:
    """The outermost application. What fails unexpectedly is logged by its place, without anybody's words."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        names = {"127.0.0.1", "localhost", "::1", settings.host, *settings.allowed_hosts}
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _host(header(scope, b"host") or "") not in self._names:
            refusal = bad_request("this name is not the gateway's", code="unknown_host", param="Host", status=421)
            await error_response(refusal)(scope, receive, send)
            return
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # noqa: BLE001
            _log.error("a request failed unexpectedly: %s at %s", type(error).__name__, _place(error))
            if not has_started:
                failed = RouteFailed(FailureClass.BAD_OUTPUT, "the gateway failed", status=500, code="internal_error")
                await error_response(failed)(scope, receive, send)


def _host(text: str) -> str:
    """Without its port, and without the brackets of an IPv6 address."""
    name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    return name.lower()


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
