"""The running gateway: its HTTP server over its parts. Told to stop, it finishes the answers under way."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
import uvloop
from starlette.types import ASGIApp

from consumer.config import ConsumerConfig
from consumer.exceptions import ConfigUnusable
from consumer.gateway.app import create_app
from consumer.gateway.gateway import Gateway
from consumer.gateway.joined_writes import JoinedWrites
from consumer.gateway.settings import GatewaySettings
from consumer.session import Session

MAX_CONNECTIONS = 2048
KEEP_ALIVE_S = 75
_BACKLOG = 1024


def run(session: Session, config: ConsumerConfig, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; `announce` gets the base URL once it answers.

    Raises ConfigUnusable, StoreError, TokenizerUnusable, ChainError.
    """
    with _listening(config.gateway) as listening:
        uvloop.run(_run(session, config, listening, announce))


async def _run(
    session: Session, config: ConsumerConfig, listening: socket.socket, announce: Callable[[str], None]
) -> None:
    gateway = Gateway(session, config)
    async with _running(gateway):
        app = create_app(gateway, gateway.keys, config.gateway)
        await serve(app, config.gateway, listening, announce)


async def serve(
    app: ASGIApp, settings: GatewaySettings, listening: socket.socket, announce: Callable[[str], None]
) -> None:
    """The HTTP server alone."""
    server = _Server(
        uvicorn.Config(
            app,
            http=JoinedWrites,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=settings.drain_s,
        ),
        lambda: announce(base_url(settings, listening.getsockname()[1])),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises them once more when all is done
    await server.serve(sockets=[listening])


def base_url(settings: GatewaySettings, port: int) -> str:
    """What applications are given."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}/v1"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()


@asynccontextmanager
async def _running(gateway: Gateway) -> AsyncIterator[None]:
    try:
        await gateway.start()
        yield
    finally:
        await asyncio.shield(gateway.stop())


def _listening(settings: GatewaySettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise ConfigUnusable(
            f"the gateway cannot listen on {where} ({error.strerror}): stop what does, or choose another [gateway] port"
        ) from error
