"""A TCP connection to a server that sends exactly what a test tells it to."""

import asyncio
import socket

import httpx


class RawConnection:
    """A TCP connection that says what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str, receive_buffer: int | None = None) -> "RawConnection":
        address = httpx.URL(url)
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        return cls(*await asyncio.open_connection(sock=sock, limit=1024))

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_closed(self) -> bytes:
        """What comes until the other side closes."""
        received = b""
        try:
            while chunk := await self.reader.read(65_536):
                received += chunk
        except ConnectionError:
            pass
        return received

    async def is_held(self, for_s: float = 1.5) -> bool:
        """Whether the other side keeps the connection."""
        try:
            await asyncio.wait_for(self.until_closed(), for_s)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.writer.transport.abort()
