"""A provider whose model is a fixed text: `python -m scripts.bench._mock_provider SETTINGS.json`; prints its address.

It speaks the market's wire as a worker does, with signed receipts, and OpenAI's API to whoever sends no voucher. As
little as possible is done for a request, so that what a gateway in front of it adds is the gateway's own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httptools
import uvloop

from protocol import money
from protocol.headers import (
    VERSION,
    VERSION_HEADER,
    RequestContext,
    Signed,
    encode_signed,
    parse_request_headers,
)
from protocol.merkle import ResponseRoot
from protocol.offer_text import terms_from_json
from protocol.signing import Signer
from protocol.stream import StreamToken, encode_line
from protocol.typed_data import Domain, Receipt, Terms, Voucher

LOGPROB = -250
"""Of every token, in thousandths of a nat."""
Paid = tuple[Signed[Voucher], RequestContext]


@dataclass(frozen=True)
class Settings:
    """What the bench decides; `tokens` are the ids of `text`'s characters, `fingerprint` is the model's in hex.

    `is_trickling` sends every token of a stream by itself, though without pause; else all leave at once.
    """

    chain_id: int
    escrow: str
    provider: int
    node_key: str
    offer: dict[str, Any]
    fingerprint: str
    model: str
    text: str
    tokens: list[int]
    prompt_tokens: int
    delay_s: float
    is_trickling: bool


class Mock:
    """What all connections share: the answer, made once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.domain = Domain(settings.chain_id, settings.escrow)
        self.signer = Signer(bytes.fromhex(settings.node_key))
        self.terms: Terms = terms_from_json(settings.offer["terms"])
        root = ResponseRoot()
        for token in settings.tokens:
            root.append(token, LOGPROB)
        self.root = root.root()
        common = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": settings.model}
        opening = _data({**common, "choices": [_choice({"role": "assistant", "content": ""})]})
        plain = [_data({**common, "choices": [_choice({"content": character})]}) for character in settings.text]
        ours = [encode_line(StreamToken(token, LOGPROB)).encode() + b"\n\n" for token in settings.tokens]
        end = _data({**common, "choices": [_choice({}, "stop")]})
        self.paid_stream = [opening, *(token + shown for token, shown in zip(ours, plain, strict=True)), end]
        self.plain_stream = [opening, *plain, end, b"data: [DONE]\n\n"]
        usage = {
            "prompt_tokens": settings.prompt_tokens,
            "completion_tokens": len(settings.tokens),
            "total_tokens": settings.prompt_tokens + len(settings.tokens),
        }
        message = {"role": "assistant", "content": settings.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
        self.whole = json.dumps(whole).encode()

    def pieces(self, paid: Paid | None, started: float) -> Iterator[bytes]:
        """A streamed answer, the receipt of a paid one signed when its turn comes."""
        if paid is None:
            yield from self.plain_stream
        else:
            yield from self.paid_stream
            yield self._receipt(*paid, started)

    def _receipt(self, voucher: Signed[Voucher], context: RequestContext, started: float) -> bytes:
        """The line of a request's one receipt, its final one."""
        settings, elapsed_ms = self.settings, round((time.monotonic() - started) * 1000)
        tokens = len(settings.tokens)
        receipt = Receipt(
            lease_id=voucher.message.lease_id,
            seq=context.seq,
            part=0,
            final=True,
            cost=money.cost_after_sla(self.terms, settings.prompt_tokens, 0, tokens, elapsed_ms, elapsed_ms),
            units_in=settings.prompt_tokens,
            units_out=tokens,
            units_cached=0,
            request_hash=context.request_hash,
            response_hash=self.root,
            ttft_ms=elapsed_ms,
            duration_ms=elapsed_ms,
            ended_at=int(time.time()),
            model_fingerprint=bytes.fromhex(settings.fingerprint),
        )
        text = encode_signed(receipt, self.signer.sign(self.domain, receipt))
        return f": clawmarket receipt {text}\n\ndata: [DONE]\n\n".encode()


class Connection(asyncio.Protocol):
    """One client; its requests come one after another."""

    def __init__(self, mock: Mock) -> None:
        self._mock = mock
        self._parser = httptools.HttpRequestParser(self)
        self._headers: list[tuple[str, str]] = []
        self._body = b""
        self._path = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers, self._body, self._path = [], b"", ""

    def on_url(self, url: bytes) -> None:
        self._path += url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode().lower(), value.decode()))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        started, mock = time.monotonic(), self._mock
        if self._path.endswith("/chat/completions"):
            is_stream = bool(json.loads(self._body).get("stream"))
            paid = None
            if any(name == "clawmarket-voucher" for name, _ in self._headers):
                paid = parse_request_headers(self._headers)
            answer = self._stream if paid or is_stream else self._whole
            asyncio.get_running_loop().call_later(mock.settings.delay_s, answer, paid, started)
        elif self._path.endswith("/vouchers"):
            self._send(b"204 No Content", b"", b"")
        elif self._path == "/healthz":
            self._send(b"200 OK", b"application/json", json.dumps({"provider": mock.settings.provider}).encode())
        elif self._path.startswith("/v1/offers/"):
            self._send(b"200 OK", b"application/json", json.dumps(mock.settings.offer).encode())
        else:
            self._send(b"404 Not Found", b"application/json", b"{}")

    def _whole(self, _: Paid | None, __: float) -> None:
        self._send(b"200 OK", b"application/json", self._mock.whole)

    def _stream(self, paid: Paid | None, started: float) -> None:
        pieces = self._mock.pieces(paid, started)
        if not self._mock.settings.is_trickling:
            self._send(b"200 OK", b"text/event-stream", b"".join(pieces))
            return
        head = f"HTTP/1.1 200 OK\r\n{VERSION_HEADER}: {VERSION}\r\nContent-Type: text/event-stream\r\n"
        self._transport.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        self._trickle(pieces)

    def _trickle(self, pieces: Iterator[bytes]) -> None:
        """One piece in each round of the event loop, which sends what was written at its end."""
        if self._transport.is_closing():
            return
        piece = next(pieces, b"")
        self._transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if piece:
            asyncio.get_running_loop().call_soon(self._trickle, pieces)

    def _send(self, status: bytes, kind: bytes, body: bytes) -> None:
        if self._transport.is_closing():
            return
        version = f"{VERSION_HEADER}: {VERSION}\r\n".encode()
        length = b"" if status.startswith(b"204") else b"Content-Length: %d\r\n" % len(body)
        content = b"Content-Type: %s\r\n" % kind if kind else b""
        self._transport.write(b"HTTP/1.1 %s\r\n%s%s%s\r\n%s" % (status, version, content, length, body))


def _data(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


async def _serve(settings: Settings) -> None:
    mock = Mock(settings)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(mock), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(Settings(**json.loads(Path(sys.argv[1]).read_text()))))
