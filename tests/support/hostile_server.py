"""A web server that says what a test tells it: whole, endless, or never."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """One answer. `is_endless` repeats the body until the client hangs up, `is_silent` sends nothing until the end."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    is_endless: bool = False
    is_silent: bool = False


@dataclass
class HostileServer:
    """`replies` by path; `seen` are the paths that were asked for, `sent` the bytes of endless bodies."""

    url: str
    replies: dict[str, Reply] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    sent: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)


_NONSENSE = {
    "nothing": Reply(),
    "not found": Reply(status=404),
    "no JSON": Reply(b"<html>"),
    "no UTF-8": Reply(b'"\xff"'),
    "deep nesting": Reply(b"[" * 100_000),
    "a number": Reply(b"1"),
    "null": Reply(b"null"),
    "huge number": Reply(b"9" * 10_000),
    "endless": Reply(b" " * 65_536, is_endless=True),
    "packed": Reply(gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}),
}


def _always(reply: Reply) -> Callable[[object], Reply]:
    return lambda _: reply


NONSENSE = {name: _always(reply) for name, reply in _NONSENSE.items()}
"""Replies to anybody that are no document of any kind, by what is wrong with them."""


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """On a loopback address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.seen.append(self.path)
            reply = found.replies.get(self.path, Reply(status=404))
            if reply.is_silent:
                found.is_over.wait()
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(reply.body)
                while reply.is_endless and not found.is_over.is_set():
                    self.wfile.write(reply.body)
                    found.sent += len(reply.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = HostileServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            found.is_over.set()
            server.shutdown()
            thread.join()
