"""A real TCP proxy that a test cuts and restores: an outage as a client sees it.

    with TcpProxy(node.port) as proxy:
        client = ChainClient([proxy.url], …)
        proxy.cut()        # connections are reset and new ones refused
        proxy.restore()    # the same port listens again

`cut_on(b"eth_sendRawTransaction", after=False)` cuts by itself when a request contains these bytes: before the
request reaches the other side, or (`after=True`) once the other side has answered, before the answer gets back.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_CHUNK = 65536


class TcpProxy:
    """Forwards connections from a port of its own to `target_port` on this machine."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._trigger: tuple[bytes, bool] | None = None
        self._down = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def restore(self) -> None:
        """Listen, on the same port as before if there was one."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(16)
        self.port = listener.getsockname()[1]
        self._down.clear()
        with self._lock:
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections, self._connections = self._connections, set()
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            _reset(connection)
        self._down.set()

    def cut_on(self, needle: bytes, *, after: bool) -> None:
        """Cut once, at the next request that contains `needle`."""
        self._trigger = (needle, after)

    def wait_until_cut(self, timeout: float = 30) -> bool:
        return self._down.wait(timeout)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                _reset(client)
                continue
            with self._lock:
                if self._listener is not listener:
                    _reset(client)
                    _reset(server)
                    return
                self._connections |= {client, server}
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        cut_at_answer = False
        recent = b""
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError, ValueError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for ready, _ in selector.select():
                    source: socket.socket = ready.fileobj  # type: ignore[assignment]
                    chunk = source.recv(_CHUNK)
                    if not chunk:
                        raise OSError("closed")
                    if source is client and self._trigger is not None:
                        needle, after = self._trigger
                        recent = recent[-len(needle) :] + chunk
                        if needle in recent:
                            self._trigger = None
                            if not after:
                                self.cut()
                                return
                            cut_at_answer = True
                    elif source is server and cut_at_answer:
                        self.cut()
                        return
                    ready.data.sendall(chunk)
        with self._lock:
            self._connections -= {client, server}
        client.close()
        server.close()


def _reset(connection: socket.socket) -> None:
    """Close with RST, so that the other side sees a broken connection at once."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        connection.close()
