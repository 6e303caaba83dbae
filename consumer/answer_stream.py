"""The lines of an answer's event stream: what they say is counted and held against the agreement as they come."""

import json
import time
from collections.abc import AsyncGenerator

import httpx

from consumer.checks import Answer
from consumer.exceptions import ProviderFailed
from protocol.exceptions import InvalidHeader
from protocol.headers import Exposure, Signed
from protocol.stream import StreamToken, parse_line
from protocol.typed_data import Receipt

MAX_LINE_BYTES = 1024 * 1024

Item = str | Signed[Receipt] | Exposure
"""A piece of text, a receipt that is not checked yet, or the provider's live figures."""


class AnswerStream:
    """One answer on its way in. `failure` is why the provider broke off, if it did."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.failure: str | None = None
        self.finish_reason = ""
        self._sent = time.monotonic()

    def feed(self, line: str) -> list[Item]:
        """What a line brings. Raises ReceiptRejected, ProviderFailed."""
        if line.startswith("data: "):
            return self._data(line[len("data: ") :])
        try:
            ours = parse_line(line)
        except InvalidHeader as error:
            raise ProviderFailed(f"the provider sent a malformed line: {error}") from error
        if isinstance(ours, StreamToken):
            self.answer.add(ours, self.elapsed_ms())
            return []
        return [] if ours is None else [ours]

    def elapsed_ms(self) -> int:
        """Milliseconds since the request was sent."""
        return round((time.monotonic() - self._sent) * 1000)

    def _data(self, text: str) -> list[Item]:
        if text == "[DONE]":
            return []
        try:
            content = json.loads(text)
            if "error" in content:
                self.failure = str(content["error"]["message"])
                return []
            choice = content["choices"][0] if content["choices"] else {}
            self.finish_reason = str(choice.get("finish_reason") or self.finish_reason)
            piece = choice.get("delta", {}).get("content") or choice.get("text") or ""
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ProviderFailed("the provider sent a malformed chunk") from error
        if not isinstance(piece, str):
            raise ProviderFailed("the provider sent text that is no string")
        if piece:
            self.answer.deliver(piece)
        return [piece] if piece else []


class Lines:
    """Cuts a stream's bytes into lines."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that are complete now. Raises ProviderFailed on one that is too long."""
        *complete, self._pending = (self._pending + chunk).split(b"\n")
        if any(len(line) > MAX_LINE_BYTES for line in (*complete, self._pending)):
            raise ProviderFailed("the provider sent a line that is too long")
        return [line.rstrip(b"\r").decode(errors="replace") for line in complete]


async def items(response: httpx.Response, stream: AnswerStream) -> AsyncGenerator[Item, None]:
    """What an answer brings, line by line. Raises ProviderFailed, ReceiptRejected, httpx.HTTPError."""
    lines = Lines()
    async for chunk in response.aiter_raw():
        for line in lines.feed(chunk):
            for item in stream.feed(line):
                yield item


async def whole(response: httpx.Response, limit: int) -> bytes:
    """A short body. Raises ProviderFailed beyond `limit` bytes, httpx.HTTPError."""
    received = b""
    async for chunk in response.aiter_raw():
        received += chunk
        if len(received) > limit:
            raise ProviderFailed(f"the provider sent more than {limit} bytes")
    return received
