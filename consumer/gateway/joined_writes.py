"""uvicorn's HTTP protocol with fewer system calls: what one turn of the event loop writes leaves in one piece.

uvicorn writes the head and the body of an answer one after the other, and each write wakes the client.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoinedWrites(HttpToolsProtocol):
    """For `uvicorn.Config(http=…)`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Of one client."""
        transport.set_write_buffer_limits(high=0)  # uvloop then writes at once
        super().connection_made(cast("asyncio.Transport", _Joining(transport)))


class _Joining:
    """A transport that writes at the end of the loop's turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
