"""HTTP connections that cannot be held for nothing.

Uvicorn waits for ever for the rest of a request's head or body, and for a client to read its answer. Here each has a
deadline that only progress moves, heads have a size, and a connection beyond the limits gets a short 503.
"""

import asyncio
import logging
from enum import Enum, auto
from typing import Any, ClassVar

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from provider.guard.addresses import Connections, address_key
from provider.guard.limits import GuardLimits

LINGER_S = 1.0
MAX_LINGERING = 128
SEND_PROGRESS_BYTES = 16 * 1024
"""A stalled answer must shrink by so much within `send_timeout_s`, or be gone."""
MAX_UNWANTED_BYTES = 256 * 1024
"""How much of a body is read after its request was answered."""
MAX_FRAMING = 8
"""How many bytes of chunk sizes, extensions and trailers go with one of a body; a chunk of one byte takes five."""

_log = logging.getLogger("provider.guard.http")
_log.setLevel(logging.ERROR)  # uvicorn writes a line for every malformed request, which anyone can send


class _Phase(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `guarded_protocol` makes the class that a server uses."""

    limits: ClassVar[GuardLimits]
    admission: ClassVar[Connections]
    lingering: ClassVar[set[asyncio.Transport]]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _log
        self._address: str | None = None
        self._phase = _Phase.IDLE
        self._is_refused = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._unwanted_bytes = 0
        self._since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._unsent = 0

    # --- connections

    def enter(self, transport: asyncio.Transport) -> bool:
        """Counts the connection, or says that there is no room for it."""
        peer = get_remote_addr(transport)
        address = address_key(peer[0]) if peer else ""
        if not self.admission.enter(address):
            return False
        self._address = address
        return True

    def leave(self) -> None:
        """The connection is gone; again is no fault."""
        if self._address is not None:
            self.admission.leave(self._address)
            self._address = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self._address is None and not self.enter(transport):
            self._is_refused = True
            self.transport = transport
            self._turn_away()
            return
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=1)  # a TLS transport would never resume from 0
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._stalled is not None:
            self._stalled.cancel()
        self.lingering.discard(self.transport)
        self.leave()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        if self._is_refused:
            self.transport.close()
        super().eof_received()

    # --- reading

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        phase, body_bytes = self._phase, self._body_bytes
        super().data_received(data)
        if self._is_refused or self.transport.is_closing():
            return
        if phase is self._phase is _Phase.HEAD:
            self._head_bytes += len(data)
        elif phase is self._phase is _Phase.BODY:
            self._framing_bytes += len(data) - (self._body_bytes - body_bytes)
        if self._head_bytes > self.limits.head_bytes:
            self._refuse(431)
        elif self._framing_bytes > self.limits.head_bytes + MAX_FRAMING * self._body_bytes:
            self._refuse(400)
        elif self._deadline is None:
            if self._phase is _Phase.BODY:
                self._watch_body()
            elif self._phase is _Phase.HEAD or not self._is_answering():
                self._watch_head()

    def on_message_begin(self) -> None:
        if self._is_refused:
            return
        self._phase = _Phase.HEAD
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._is_refused:
            return
        self._disarm()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.head_bytes or len(self.headers) > self.limits.head_fields:
            self._refuse(431)
            return
        self._phase = _Phase.BODY
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._unwanted_bytes = 0
        self._since = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._is_refused:
            return
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._unwanted_bytes += len(body)
            if self._unwanted_bytes > MAX_UNWANTED_BYTES:
                self._is_refused = True
                self.transport.close()
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_refused:
            return
        self._disarm()
        self._phase = _Phase.IDLE
        super().on_message_complete()

    # --- writing

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    # --- deadlines

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _watch_head(self) -> None:
        self._deadline = self.loop.call_later(self.limits.head_timeout_s, self._head_due)

    def _head_due(self) -> None:
        self._deadline = None
        if self._is_answering():
            self._watch_head()
        else:
            self._refuse(408)

    def _watch_body(self) -> None:
        due = self.limits.body_grace_s + self._body_bytes / self.limits.body_bytes_per_s
        self._deadline = self.loop.call_at(self._since + due, self._body_due)

    def _body_due(self) -> None:
        self._deadline = None
        if self.flow.read_paused:  # we are the slow ones, or an earlier request is being answered
            self._since = self.loop.time()
        due = self._since + self.limits.body_grace_s + self._body_bytes / self.limits.body_bytes_per_s
        if self.loop.time() < due:
            self._watch_body()
        else:
            self._refuse(408)

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self.limits.send_timeout_s, self._sending_due)

    def _sending_due(self) -> None:
        self._stalled = None
        if self._unsent - self.transport.get_write_buffer_size() >= SEND_PROGRESS_BYTES:
            self._watch_sending()
        else:
            self.transport.abort()

    # --- answers of our own

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int) -> None:
        """Ends the connection; with an answer if none has begun."""
        self._is_refused = True
        self._disarm()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_short_answer(status))
        self.transport.close()

    def _turn_away(self) -> None:
        """Says that there is no room; waits a moment for the client to read that before the socket goes."""
        self.transport.write(_short_answer(503))
        if len(self.lingering) >= MAX_LINGERING or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.lingering.add(self.transport)
        self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER_S, self.transport.abort)


def guarded_protocol(limits: GuardLimits) -> type[GuardedProtocol]:
    """The protocol class of one server."""

    class Protocol(GuardedProtocol):
        pass

    Protocol.limits = limits
    Protocol.admission = Connections(limits)
    Protocol.lingering = set()
    return Protocol


def _short_answer(status: int) -> bytes:
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    return STATUS_LINE[status] + retry + b"content-length: 0\r\nconnection: close\r\n\r\n"
