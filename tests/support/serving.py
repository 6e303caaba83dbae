"""An ASGI application behind a real HTTP server, with or without the guard."""

import asyncio
import itertools
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from provider.guard import GuardLimits, server_config
from tests.support.waiting import until


class _Server(uvicorn.Server):
    """Looks more often than every tenth of a second whether it shall end: every test waits for that."""

    async def main_loop(self) -> None:
        for tick in itertools.count():
            if await self.on_tick(tick):
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serve(
    app: ASGIApp, guard: GuardLimits | None = None, tls: ssl.SSLContext | None = None, **socket_options: int
) -> AsyncIterator[str]:
    """An ASGI application on a port of its own; gives its address. `socket_options` are of SOL_SOCKET, by name."""
    listening = socket.socket()
    for name, value in socket_options.items():
        listening.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    listening.bind(("127.0.0.1", 0))
    if guard is None:
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=2)
        config.load()
        config.ssl = tls
    else:
        config = server_config(app, guard, tls, timeout_graceful_shutdown=2)
    server = _Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listening.close()
