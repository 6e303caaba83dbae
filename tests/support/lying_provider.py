"""A provider on real sockets, with a real node key, that says one text and is honest but for the `Lies` it is told.

    async with LyingProvider(identity, Lies(ReceiptLies(percent_out=1))) as provider:
        …                      # ask at provider.url; look at provider.seen and provider.paid
        provider.lies = Lies() # from the next request on

It serves streamed chats and completions of the tiny model, whose tokens are bytes. A completion whose prompt ends with
a part of the text goes on after it, so that lying and honest providers with the same text can take each other's place.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, Self

from protocol import money
from protocol.headers import (
    VOUCHER_HEADER,
    RefusalCode,
    RequestContext,
    ResponseHeaders,
    Signed,
    parse_request_headers,
    parse_voucher,
)
from protocol.merkle import ResponseRoot
from protocol.signing import Signer
from protocol.stream import StreamLine, StreamToken, encode_line
from protocol.typed_data import Domain, Receipt, Voucher
from provider.offers import Offer
from tests.support.http_connection import Connection, Headers, HungUp
from tests.support.lies import Lies
from tests.support.tiny_gguf import FIRST_BYTE_TOKEN, prompt_tokens

TEXT = "The sea is wide and blue, and it sings to whoever listens."
LOGPROB = -250
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Identity:
    """Who a provider is: its deployment's domain, its number and node key, and the offer it published."""

    domain: Domain
    provider: int
    node: Signer
    offer: Offer


@dataclass
class Seen:
    """A paid request as it arrived, and the receipts it was sent or would be sent when it is repeated."""

    voucher: Signed[Voucher]
    context: RequestContext
    path: str
    content: dict[str, Any]
    receipts: list[Signed[Receipt]] = field(default_factory=list)
    has_ended: bool = False


class LyingProvider:
    """`vouchers` came beside requests, `paid` are their amounts; `part_every` tokens a receipt is due."""

    def __init__(self, identity: Identity, lies: Lies | None = None, text: str = TEXT, part_every: int = 8) -> None:
        self.identity = identity
        self.lies = lies or Lies()
        self.text = text
        self.part_every = part_every
        self.seen: list[Seen] = []
        self.paid: list[int] = []
        self.vouchers: list[Signed[Voucher]] = []
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection = Connection(reader, writer)
        try:
            while True:
                await self._serve(connection, *await connection.request())
        except (HungUp, OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    async def _serve(self, connection: Connection, method: str, path: str, headers: Headers, body: bytes) -> None:
        if method == "POST" and path in (CHAT, COMPLETIONS):
            await self._paid(connection, path, headers, body)
        elif method == "POST" and path.endswith("/vouchers"):
            self.vouchers.append(parse_voucher(dict(headers)[VOUCHER_HEADER.lower()]))
            self.paid.append(self.vouchers[-1].message.cumulative)
            connection.answer(204)
        elif path == "/healthz":
            connection.answer(200, json.dumps({"ready": True, "provider": self.identity.provider}))
        elif path == f"/v1/offers/{self.identity.offer.offer_id}/{self.identity.offer.version}":
            connection.answer(200, self.identity.offer.to_json())
        else:
            connection.answer(404, _error("unknown_url"))

    async def _paid(self, connection: Connection, path: str, headers: Headers, body: bytes) -> None:
        lies = self.lies
        seen = Seen(*parse_request_headers(headers), path, json.loads(body))
        if lies.is_silent:
            self.seen.append(seen)
            await asyncio.Event().wait()
        before = next((each for each in self.seen if each.voucher.message == seen.voucher.message), None)
        if before is not None:
            self._repeated(connection, before)
            return
        if lies.retry_after_s is not None:
            connection.answer(429, _error("rate_limited"), {"Retry-After": str(lies.retry_after_s)})
        elif lies.calls_invalid:
            connection.answer(400, _error("invalid_request"))
        elif lies.is_busy:
            connection.answer(503, _error("busy"), ResponseHeaders(refusal=RefusalCode.BUSY).encode())
        else:
            self.seen.append(seen)
            connection.begin(lies.cut_after_bytes)
            answer = _Answer(self, lies, seen)
            try:
                await answer.send(connection)
            finally:
                answer.end()

    def _repeated(self, connection: Connection, seen: Seen) -> None:
        """As every provider must: with the stored final receipt."""
        if seen.has_ended and seen.receipts:
            connection.answer(409, _error("already_served"), ResponseHeaders(receipt=seen.receipts[-1]).encode())
        else:
            connection.answer(409, _error("busy"), ResponseHeaders(refusal=RefusalCode.BUSY).encode())


class _Answer:
    """One streamed answer on its way out."""

    def __init__(self, provider: LyingProvider, lies: Lies, seen: Seen) -> None:
        self._identity = provider.identity
        self._part_every = provider.part_every
        self._lies = lies
        self._seen = seen
        self._started = time.monotonic()
        self._first_ms = 0
        self._root = ResponseRoot()
        text = provider.text if lies.text is None else lies.text
        self._prompt, rest = _prompt_and_rest(seen, text)
        limit = seen.content.get("max_completion_tokens") or seen.content.get("max_tokens") or len(rest)
        self._said = rest[:limit]
        self._reason = "stop" if len(rest) <= limit else "length"

    async def send(self, connection: Connection) -> None:
        """All of it. Raises HungUp where the lies, or the client, end the connection."""
        lies = self._lies
        if self._seen.path == CHAT:
            connection.send(self._data({"role": "assistant", "content": ""}))
        await asyncio.sleep(lies.first_token_s)
        for number, character in enumerate(self._said):
            await self._break_down(connection, number)
            if number and number % self._part_every == 0:
                self._receipt(connection, is_final=False)
            self._token(connection, number, character)
            await connection.writer.drain()
            if lies.token_s:
                await asyncio.sleep(lies.token_s)
        await self._break_down(connection, len(self._said))
        connection.send(self._data({}, self._reason))
        if not lies.receipts.is_missing:
            self._receipt(connection, is_final=True)
        connection.send(b"data: [DONE]\n\n")
        connection.end()

    def end(self) -> None:
        """However it ended, there is one final receipt."""
        if not self._seen.has_ended and not self._lies.receipts.is_missing:
            self._receipt(None, is_final=True)

    def _token(self, connection: Connection, number: int, character: str) -> None:
        token = StreamToken(FIRST_BYTE_TOKEN + ord(character), LOGPROB + self._lies.logprob)
        if number != self._lies.unsigned_text_at:
            self._root.append(token.token_id, token.logprob)
            self._first_ms = self._first_ms or self._elapsed_ms()
            connection.send(_comment(token))
        if number != self._lies.silent_token_at:
            connection.send(self._data({"content": character}))

    async def _break_down(self, connection: Connection, number: int) -> None:
        lies = self._lies
        if number == lies.cut_after_tokens:
            raise HungUp
        if number == lies.murmurs_after:
            while True:
                connection.send(b": still here\n\n")
                await asyncio.sleep(0.05)
        if number in (lies.stalls_after, lies.half_closes_after):
            if number == lies.half_closes_after:
                connection.writer.write_eof()
            await connection.until_left()

    def _receipt(self, connection: Connection | None, *, is_final: bool) -> None:
        seen, terms = self._seen, self._identity.offer.terms
        elapsed_ms, count = self._elapsed_ms(), self._root.count
        honest = Receipt(
            lease_id=seen.voucher.message.lease_id,
            seq=seen.context.seq,
            part=len(seen.receipts),
            final=is_final,
            cost=money.cost_after_sla(terms, self._prompt, 0, count, self._first_ms, elapsed_ms),
            units_in=self._prompt,
            units_out=count,
            units_cached=0,
            request_hash=seen.context.request_hash,
            response_hash=self._root.root(),
            ttft_ms=self._first_ms,
            duration_ms=elapsed_ms,
            ended_at=int(time.time()),
            model_fingerprint=self._identity.offer.fingerprint,
        )
        last = seen.receipts[-1].message if seen.receipts else None
        told = self._lies.receipts.falsify(honest, terms, last)
        signed = self._lies.receipts.sign(told, self._identity.domain, self._identity.node)
        seen.receipts.append(signed)
        seen.has_ended = is_final
        if connection is not None:
            connection.send(_comment(signed))

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self._started) * 1000)

    def _data(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        is_chat = self._seen.path == CHAT
        said = {"delta": delta} if is_chat else {"text": delta.get("content", "")}
        content = {
            "id": f"answer-{self._seen.context.seq}",
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": self._seen.context.sent_at,
            "model": self._identity.offer.model_name,
            "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": reason}],
        }
        return b"data: " + json.dumps(content).encode() + b"\n\n"


def _comment(line: StreamLine) -> bytes:
    return encode_line(line).encode() + b"\n\n"


def _error(code: str) -> str:
    return json.dumps({"error": {"message": "no", "type": "server_error", "param": None, "code": code}})


def _prompt_and_rest(seen: Seen, text: str) -> tuple[int, str]:
    """How many tokens the prompt has, and what of the text follows it."""
    if seen.path == CHAT:
        return prompt_tokens(seen.content["messages"]), text
    prompt = seen.content["prompt"]
    tokens = len(prompt) if isinstance(prompt, list) else len(prompt.encode()) + 1
    said = _read(prompt) if isinstance(prompt, list) else prompt
    known = next(length for length in range(len(text), -1, -1) if said.endswith(text[:length]))
    return tokens, text[known:]


def _read(tokens: list[int]) -> str:
    """A prompt as it reads: bytes, but for the last token of the vocabulary, which is a space."""
    codes = (token - FIRST_BYTE_TOKEN for token in tokens if token >= FIRST_BYTE_TOKEN)
    return bytes(code if code < 256 else ord(" ") for code in codes).decode(errors="replace")
