"""A server that answers `/v1/models` properly and completions with whatever bytes a test gives it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MODEL = "upstream-model"


@dataclass
class RawUpstream:
    """`behave` writes the answer to a completion, its head included."""

    url: str = ""
    behave: Behaviour | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    is_open: bool = False
    """Whether a completion's connection is open."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            if head.startswith("GET"):
                body = json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
                return
            length = int(next(line for line in head.lower().split("\r\n") if "content-length" in line).split(":")[1])
            self.requests.append(json.loads(await reader.readexactly(length)))
            self.is_open = True
            assert self.behave is not None
            answering = asyncio.ensure_future(self.behave(writer))
            ended = asyncio.ensure_future(reader.read())
            await asyncio.wait({answering, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in (answering, ended):
                task.cancel()
            await asyncio.gather(answering, ended, return_exceptions=True)
        except (OSError, EOFError):
            pass
        finally:
            self.is_open = False
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def chunk(text: str, reason: str | None = None, **more: Any) -> bytes:
    """One event of a plain completion."""
    return b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": reason, **more}]}).encode() + b"\n\n"


def saying(*pieces: bytes, pause_s: float = 0.0) -> Behaviour:
    """These bytes after a good head, with pauses between, then the end of the connection."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return behave


def forever(piece: bytes, pause_s: float = 0.0) -> Behaviour:
    """The same bytes again and again."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return behave


@asynccontextmanager
async def raw_upstream() -> AsyncIterator[RawUpstream]:
    """A running server."""
    upstream = RawUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        await server.wait_closed()
