"""The server's side of HTTP/1.1 on one connection: just enough for providers of tests, which may cut it anywhere."""

import asyncio
import contextlib

from protocol.headers import VERSION, VERSION_HEADER

Headers = list[tuple[str, str]]


class HungUp(Exception):  # noqa: N818 - named for what happened
    """The connection is of no more use to anybody."""


class Connection:
    """One client; its requests come one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._left: int | None = None

    async def request(self) -> tuple[str, str, Headers, bytes]:
        """The next one: method, path, headers (their names in lower case), body. Raises EOFError, OSError."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.strip().split("\r\n")
        method, path, _ = line.split(" ")
        headers = [(name.lower(), value.strip()) for name, _, value in (each.partition(":") for each in rest)]
        body = await self._reader.readexactly(int(dict(headers).get("content-length", "0")))
        return method, path, headers, body

    def answer(self, status: int, body: str = "", headers: dict[str, str] | None = None) -> None:
        """A short answer."""
        sent = {VERSION_HEADER: VERSION, **(headers or {})}
        if status != 204:
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(body.encode()))}
        self.writer.write(_head(status, sent) + body.encode())

    def begin(self, cut_after_bytes: int | None) -> None:
        """A stream; the connection is cut after so many bytes of it."""
        self._left = cut_after_bytes
        headers = {VERSION_HEADER: VERSION, "Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        self.writer.write(_head(200, headers))

    def send(self, data: bytes) -> None:
        """A piece of the stream. Raises HungUp."""
        cut = data if self._left is None else data[: self._left]
        if cut:
            self.writer.write(b"%x\r\n%s\r\n" % (len(cut), cut))
        if self._left is not None:
            self._left -= len(cut)
            if self._left == 0:
                raise HungUp

    def end(self) -> None:
        """The stream is complete."""
        self.writer.write(b"0\r\n\r\n")

    async def until_left(self) -> None:
        """Waits until the client has gone. Raises HungUp."""
        with contextlib.suppress(OSError):
            await self._reader.read()
        raise HungUp


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()
