"""An HTTP server that answers JSON-RPC batches as a test tells it to: lying, lagging, broken or merely busy."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx

from consumer.tls import unchecked_context

GENESIS = "0x" + "ab" * 32
Batch = list[dict[str, Any]]
Answer = tuple[int, bytes]


class HostileNode:
    """Honest about `results` (method to result) until `answer` is replaced. Counts requests."""

    def __init__(self, chain_id: int = 31337, **results: Any) -> None:
        self.results: dict[str, Any] = {
            "eth_chainId": hex(chain_id),
            "eth_getBlockByNumber": {"hash": GENESIS},
            **results,
        }
        self.answer: Callable[[Batch], Answer] = self.honest
        self.requests = 0
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                node.requests += 1
                status, body = node.answer(batch)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def entries(self, batch: Batch) -> Batch:
        return [{"jsonrpc": "2.0", "id": call["id"], "result": self.results.get(call["method"])} for call in batch]

    def honest(self, batch: Batch) -> Answer:
        return 200, json.dumps(self.entries(batch)).encode()

    def relay(self, url: str, change: Callable[[dict[str, Any], Any], Any]) -> None:
        """Pass everything on to a real node; `change` sees each call and its result and gives what to answer."""

        def answer(batch: Batch) -> Answer:
            entries = httpx.post(url, json=batch, verify=unchecked_context()).json()
            by_id = {call["id"]: call for call in batch}
            for entry in entries:
                if "result" in entry:
                    entry["result"] = change(by_id[entry["id"]], entry["result"])
            return 200, json.dumps(entries).encode()

        self.answer = answer

    def first(self, count: int, answer: Callable[[Batch], Answer]) -> None:
        """Give this answer `count` times, then be honest."""
        left = [count]

        def choose(batch: Batch) -> Answer:
            left[0] -= 1
            return answer(batch) if left[0] >= 0 else self.honest(batch)

        self.answer = choose
