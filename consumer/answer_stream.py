"""The lines of an answer's event stream: what they say is counted and held against the agreement as they come."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from consumer.checks import Answer
from consumer.exceptions import ProviderFailed, ReceiptRejected
from consumer.repeating import CHAT
from consumer.transport import Response
from consumer.turns import turn
from protocol.exceptions import InvalidHeader
from protocol.headers import Exposure, Signed
from protocol.stream import StreamToken, parse_line
from protocol.typed_data import Receipt

MAX_LINE_BYTES = 1024 * 1024
MAX_WORDS = 1000
"""Of what a provider says of its failure."""
TOKEN_BYTES = 16 * 1024
"""What a token may take on the wire, its text and the likeliest others beside it included."""
MAX_ANSWER_BYTES = 256 * 1024 * 1024
END_S = 1.0
"""How long a connection may stay open after the last event."""
WHOLE_S = 60.0
"""How long a body that is read as a whole may take."""


@dataclass
class Choices:
    """The entries of chunks' `choices`, the text in them, and the tokens that came before them."""

    entries: list[dict[str, Any]]
    text: str
    tokens: list[StreamToken]

    def add(self, later: "Choices") -> None:
        """Takes what came after."""
        self.entries += later.entries
        self.text += later.text
        self.tokens += later.tokens


Item = Choices | Signed[Receipt] | Exposure
"""A chunk, a receipt that is not checked yet, or the provider's live figures."""


class AnswerStream:
    """One answer on its way in, to a request for `path`. `failure` is why the provider broke off, if it did;
    `waited_s` is how long after the first token nothing was there to be read.

    Readers of event streams differ in what they make of odd lines. Here each event is one `data:` line and a blank one,
    and nothing follows the last: then what is counted here is what every reader is shown.
    """

    def __init__(self, answer: Answer, path: str = CHAT) -> None:
        self.answer = answer
        self.path = path
        self._tokens: list[StreamToken] = []
        self.failure: str | None = None
        self.finish_reason = ""
        self._is_in_event = False
        self.has_ended = False
        self._sent = time.monotonic()
        self._arrived = 0.0
        self.waited_s = 0.0

    def feed(self, lines: Iterable[str]) -> Iterator[Item]:
        """What lines bring, chunks that follow each other as one. Raises ReceiptRejected, ProviderFailed.

        What comes before a line is given before the line is read.
        """
        shown = Choices([], "", [])
        try:
            for line in lines:
                item = self._line(line)
                if isinstance(item, Choices):
                    shown.add(item)
                elif item is not None:
                    if shown.entries:
                        yield shown
                        shown = Choices([], "", [])
                    yield item
        except (ReceiptRejected, ProviderFailed):
            if shown.entries:
                yield shown
            raise
        if shown.entries:
            yield shown

    def _line(self, line: str) -> Item | None:
        if not line:
            self._is_in_event = False
            return None
        if self._is_in_event or self.has_ended or "\r" in line:
            raise ProviderFailed("the provider sent a line where none can be")
        if line.startswith("data: "):
            self._is_in_event = True
            return self._data(line[len("data: ") :])
        if not line.startswith(":"):
            raise ProviderFailed("the provider sent a line that is neither data nor a comment")
        try:
            ours = parse_line(line)
        except InvalidHeader as error:
            raise ProviderFailed(f"the provider sent a malformed line: {error}") from error
        if isinstance(ours, StreamToken):
            self.answer.add(ours, self.elapsed_ms())
            self._tokens.append(ours)
            return None
        return ours

    def arrived(self) -> None:
        """What is fed next is here now: what it waits for its turn is not the provider's time."""
        self._arrived = time.monotonic()

    def elapsed_ms(self) -> int:
        """Milliseconds from the request's sending to the arrival of what is read now."""
        return round(((self._arrived or time.monotonic()) - self._sent) * 1000)

    def _data(self, text: str) -> Choices | None:
        if text == "[DONE]":
            self.has_ended = True
            return None
        try:
            content = orjson.loads(text)
            if "error" in content:
                self.failure = str(content["error"]["message"])[:MAX_WORDS]
                return None
            entries = list(content["choices"])
            text = "".join([self._choice(choice) for choice in entries])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProviderFailed("the provider sent a malformed chunk") from error
        if not entries:
            return None
        tokens, self._tokens = self._tokens, []
        return Choices(entries, text, tokens)

    def _choice(self, choice: dict[str, Any]) -> str:
        """Raises ReceiptRejected, and ValueError and its like on a malformed one."""
        number, is_chat = number_of(choice), self.path == CHAT
        text = take(self.answer, number, choice["delta"] if is_chat else choice, "content" if is_chat else "text")
        if choice.get("finish_reason"):
            self.finish_reason = str(choice["finish_reason"])
            self.answer.close(number)
        return text


def take(answer: Answer, number: int, part: dict[str, Any], name: str) -> str:
    """Hands a choice's tool calls, and its text, which goes by `name`, to the answer; returns the text.

    Raises ReceiptRejected, and ValueError and its like where they are malformed.
    """
    text = part.get(name) or ""
    if not isinstance(text, str):
        raise TypeError("text that is no string")
    if text:
        answer.deliver(text, number)
    for place, call in enumerate(part.get("tool_calls") or ()):
        function = call["function"]
        answer.call(number, int(call.get("index", place)), function.get("name") or "", function.get("arguments") or "")
    return text


def number_of(choice: dict[str, Any]) -> int:
    """Which of the answer's choices this is. Raises TypeError on what readers may not take for a number."""
    number = choice.get("index", 0)
    if type(number) is not int:
        raise TypeError("an index that is no number")
    return number


class Lines:
    """Cuts a stream's bytes into lines."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that are complete now. Raises ProviderFailed on one that is too long."""
        *complete, self._pending = (self._pending + chunk).split(b"\n")
        if any(len(line) > MAX_LINE_BYTES for line in (*complete, self._pending)):
            raise ProviderFailed("the provider sent a line that is too long")
        try:
            return [line.removesuffix(b"\r").decode() for line in complete]
        except UnicodeDecodeError as error:
            raise ProviderFailed("the provider sent what is no UTF-8") from error


async def items(response: Response, stream: AnswerStream, idle_s: float) -> AsyncGenerator[Item, None]:
    """What an answer brings, line by line. Raises ProviderFailed, ReceiptRejected, httpx.HTTPError.

    Comments alone, be they as many as they want, are no answer for longer than `idle_s` seconds of waiting, and what
    brings more bytes than the tokens asked for can take is none either.
    """
    lines = Lines()
    idle, tokens = 0.0, 0
    left = min(MAX_LINE_BYTES + TOKEN_BYTES * stream.answer.agreement.limits.max_tokens, MAX_ANSWER_BYTES)
    began = time.monotonic()
    async for chunk in response.aiter_raw():
        left -= len(chunk)
        if left < 0:
            raise ProviderFailed("the provider sent far more than was asked for")
        waited = time.monotonic() - began
        if stream.answer.units_out:
            stream.waited_s += waited
        stream.arrived()
        await turn()
        for item in stream.feed(lines.feed(chunk)):
            yield item
        idle = idle + waited if stream.answer.units_out == tokens else 0.0
        tokens = stream.answer.units_out
        if idle > idle_s:
            raise httpx.ReadTimeout("no token came")
        if stream.has_ended:
            break
        began = time.monotonic()
    with contextlib.suppress(TimeoutError):  # a whole answer is whole also if its connection stays open
        async with asyncio.timeout(END_S):
            async for chunk in response.aiter_raw():
                for _ in stream.feed(lines.feed(chunk)):
                    pass


async def whole(response: Response, limit: int) -> bytes:
    """A body. Raises ProviderFailed beyond `limit` bytes, httpx.HTTPError."""
    received = bytearray()
    try:
        async with asyncio.timeout(WHOLE_S):
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > limit:
                    raise ProviderFailed(f"the provider sent more than {limit} bytes")
    except TimeoutError as error:
        raise httpx.ReadTimeout("the body came too slowly") from error
    return bytes(received)
