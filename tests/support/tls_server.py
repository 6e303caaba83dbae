"""A small https server that keeps what it is sent."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from provider import tls


@dataclass
class TlsServer:
    """`received` holds every request's first line and Authorization header."""

    url: str
    pin: str
    received: list[str] = field(default_factory=list)


@contextmanager
def tls_server(folder: Path, answer: bytes = b"hello", port: int = 0) -> Iterator[TlsServer]:
    """Serves `answer` with the key in `folder`, made if there is none, on any port unless told which."""
    files = tls.ensure(folder, ["127.0.0.1"])
    seen: list[str] = []
    connections: list[ssl.SSLSocket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append(f"{self.requestline} {self.headers.get('Authorization', '')}")
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up in the handshake is no fault here."""

        def finish_request(self, request: object, client_address: object) -> None:
            wrapped = context.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
            connections.append(wrapped)
            with wrapped:
                super().finish_request(wrapped, client_address)

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield TlsServer(f"https://127.0.0.1:{server.server_port}", files.pin, seen)
        finally:
            server.shutdown()
            thread.join()
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
