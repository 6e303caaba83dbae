"""The API's HTTP server: one process, any number of them beside the one writer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from indexer.api.app import create_app
from indexer.api.errors import ApiError
from indexer.api.readers import open_reader
from indexer.config import IndexerConfig
from indexer.exceptions import ConfigUnusable

MAX_CONNECTIONS = 2048
MAX_HEAD = 32 * 1024
HEAD_S = 10.0
"""Within which a request's line and headers must be here."""
STALLED_S = 20.0
"""After which the system ends a connection whose client takes nothing of what is sent."""
_KEEP_ALIVE_S = 30
_DRAIN_S = 5
_BACKLOG = 1024


def run(config: IndexerConfig, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; `announce` gets the address once it answers. Raises ConfigUnusable."""
    settings = config.api
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise ConfigUnusable(
            f"the API cannot listen on {where} ({error.strerror}): choose another [api] port"
        ) from error
    with listening:
        server = _Server(
            uvicorn.Config(
                create_app(open_reader(config), settings),
                loop="uvloop",
                http=_Patient,
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_DRAIN_S,
            ),
            lambda: announce(_address(settings.host, listening.getsockname()[1])),
        )
        server.run(sockets=[listening])


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()


class _Patient(HttpToolsProtocol):
    """Ends connections whose request's head is too long or too slow to come."""

    _head = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_S * 1000))
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        if self._late is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._give_up(ApiError(431, "head_too_long", f"line and headers have more than {MAX_HEAD} bytes"))
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        if self._late is None:
            self._wait_for_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        late = ApiError(408, "head_too_slow", f"line and headers were not here after {HEAD_S:g} s")
        self._late = asyncio.get_running_loop().call_later(HEAD_S, self._give_up, late)

    def _stop_waiting(self) -> None:
        self._head = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self, error: ApiError) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            body = bytes(error.response().body)
            head = (
                f"HTTP/1.1 {error.status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            )
            self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            self.transport.close()
