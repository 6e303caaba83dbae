"""TLS handshakes that cannot be held for nothing.

A server of asyncio's own counts a TLS connection only after its handshake, and waits a minute for that. Here it counts
from the start on, and its handshake has a deadline.
"""

import asyncio
import ssl
from socket import socket

from provider.guard.http_protocol import GuardedProtocol
from provider.guard.limits import GuardLimits


class TlsGreeting(asyncio.Protocol):
    """Takes a new connection's socket, and hands it to `inner` once the handshake is done."""

    def __init__(self, inner: GuardedProtocol, context: ssl.SSLContext, limits: GuardLimits) -> None:
        self._inner = inner
        self._context = context
        self._limits = limits
        self._greeting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self._inner.enter(transport):
            try:
                taken = transport.get_extra_info("socket").dup()
            except OSError:  # there are no descriptors left
                self._inner.leave()
            else:
                self._greeting = asyncio.get_running_loop().create_task(self._greet(taken))
        transport.abort()  # nothing was read here, and what was taken stays open

    async def _greet(self, taken: socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._inner,
                taken,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_timeout_s,
                ssl_shutdown_timeout=self._limits.closing_timeout_s,
            )
        except OSError:  # it was malformed or too slow, or the client is gone
            self._inner.leave()
        except BaseException:
            self._inner.leave()
            taken.close()
            raise
