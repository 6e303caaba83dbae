"""Answering chats, completions and embeddings, as an event stream or whole.

A stream begins with the first chunk: what fails before has a status of its own. Where another route goes on, a comment
names it. It ends with a comment that holds routes, cost and legs; whole answers have these in headers.
"""

import json
import secrets
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from consumer.gateway.app_connection import while_connected
from consumer.gateway.app_ports import Dispatching, Keys
from consumer.gateway.app_request import CHAT, EMBEDDINGS, check_allowed, header, parse_asked, read_body, wants_usage
from consumer.gateway.app_used import MAX_WORDS, cost, described, usage
from consumer.gateway.assemble import Choices
from consumer.gateway.errors import error_body, error_response
from consumer.gateway.events import Asked, Chunk, Leg, Routed, RouteFailed, Vectors
from consumer.gateway.settings import GatewaySettings
from consumer.gateway.status import Outcome, Requests
from consumer.turns import turn

_encode = json.JSONEncoder(separators=(",", ":")).encode
_STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
SHOWN_LEGS = 16
"""Of those in a header; there are as many as there were routes to fail."""
COMMENT = b": clawmarket "


@dataclass
class _Answer:
    """One answer so far."""

    asked: Asked
    began: float = field(default_factory=time.monotonic)
    routes: list[dict[str, Any]] = field(default_factory=list)
    legs: list[Leg] = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))
    first_at: float = 0.0
    has_begun: bool = False

    @property
    def route(self) -> str:
        """The route that answers now."""
        return str(self.routes[-1]["route"]) if self.routes else ""

    @property
    def model(self) -> str:
        """What the application named; where it named none, the route, which can be asked for by this name again."""
        name = self.asked.model
        return self.route if name == "auto" or name.startswith("auto:") else name

    def common(self, kind: str) -> dict[str, Any]:
        """What every object of the answer has."""
        prefix = "chatcmpl" if self.asked.path == CHAT else "cmpl"
        answer_id = f"{prefix}-{secrets.token_hex(12)}"
        return {"id": answer_id, "object": kind, "created": self.created, "model": self.model}

    def outcome(self, ended: str) -> Outcome:
        """For the records."""
        return Outcome(
            self.asked.path,
            self.asked.model[:MAX_WORDS],
            self.route,
            ended,
            tuple(self.legs),
            ttft_s=(self.first_at or time.monotonic()) - self.began,
            duration_s=time.monotonic() - self.began,
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What a whole answer says of its making."""
        return [
            (b"x-clawmarket-route", _header_safe(self.route)),
            (b"x-clawmarket-cost", cost(self.legs).encode()),
            (b"x-clawmarket-legs", _encode(described(self.legs[-SHOWN_LEGS:])).encode()),
        ]

    def change(self) -> bytes:
        """What a stream says when another route goes on with it."""
        return COMMENT + _encode({"route": self.route}).encode() + b"\n\n"

    def comment(self) -> bytes:
        """What a stream says of its making."""
        content = {"route": self.route, "cost": cost(self.legs), "routes": self.routes, "legs": described(self.legs)}
        return COMMENT + _encode(content).encode() + b"\n\n"


class AnswerEndpoint:
    """The ASGI application of one path."""

    def __init__(
        self, path: str, dispatcher: Dispatching, keys: Keys, settings: GatewaySettings, requests: Requests
    ) -> None:
        self._path = path
        self._dispatcher = dispatcher
        self._keys = keys
        self._max_bytes = settings.max_body_mb * 1024 * 1024
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await turn()
        try:
            key = self._keys.identify(header(scope, b"authorization"))
            with self._requests.begin():
                asked = parse_asked(self._path, await read_body(scope, receive, self._max_bytes), key.key_id)
                check_allowed(key, asked)
                await self._answer(_Answer(asked), receive, send)
        except RouteFailed as failed:
            await error_response(failed)(scope, receive, send)

    async def _answer(self, answer: _Answer, receive: Receive, send: Send) -> None:
        work = self._stream if answer.asked.is_stream and self._path != EMBEDDINGS else self._whole
        ended = "cancelled"
        try:
            if await while_connected(receive, work(answer, send)):
                ended = "finished"
        except RouteFailed as failed:
            ended = failed.failure.value
            if not answer.has_begun:
                raise
            await send({"type": "http.response.body", "body": _failure(answer, failed)})
        finally:
            self._requests.ended(answer.outcome(ended))

    async def _stream(self, answer: _Answer, send: Send) -> None:
        is_counted = wants_usage(answer.asked)
        before, after = b"", b'],"usage":null}\n\n' if is_counted else b"]}\n\n"

        async def begin() -> bytes:
            answer.first_at, answer.has_begun = time.monotonic(), True
            headers = [*_STREAM_HEADERS, (b"x-clawmarket-route", _header_safe(answer.route))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            common = answer.common("chat.completion.chunk" if self._path == CHAT else "text_completion")
            return b"data: " + _encode(common)[:-1].encode() + b',"choices":['

        async with aclosing(self._dispatcher.answer(answer.asked)) as parts:  # type: ignore[type-var]
            async for part in parts:
                if isinstance(part, Chunk):
                    before = before or await begin()
                    body = b"".join(before + _encode(entry).encode() + after for entry in part.entries)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                else:
                    _note(answer, part)
                    if isinstance(part, Routed) and answer.has_begun:
                        await send({"type": "http.response.body", "body": answer.change(), "more_body": True})
        before = before or await begin()
        counted = before + b'],"usage":' + _encode(usage(answer.legs)).encode() + b"}\n\n" if is_counted else b""
        await send({"type": "http.response.body", "body": counted + answer.comment() + b"data: [DONE]\n\n"})

    async def _whole(self, answer: _Answer, send: Send) -> None:
        choices = Choices(self._path)
        vectors: list[dict[str, Any]] = []
        async with aclosing(self._dispatcher.answer(answer.asked)) as parts:  # type: ignore[type-var]
            async for part in parts:
                if isinstance(part, Chunk):
                    answer.first_at = answer.first_at or time.monotonic()
                    for entry in part.entries:
                        choices.add(entry)
                elif isinstance(part, Vectors):
                    vectors = part.data
                else:
                    _note(answer, part)
        if self._path == EMBEDDINGS:
            content: dict[str, Any] = {"object": "list", "data": vectors, "model": answer.model}
            content["usage"] = usage(answer.legs, is_embedding=True)
        else:
            content = answer.common("chat.completion" if self._path == CHAT else "text_completion")
            content |= {"choices": choices.whole(), "usage": usage(answer.legs)}
        body = _encode(content).encode()
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length), *answer.headers()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _note(answer: _Answer, part: Any) -> None:
    """Keeps a leg, or which route answers from here on."""
    if isinstance(part, Leg):
        answer.legs.append(part)
    elif not isinstance(part, Vectors):
        answer.routes.append({"route": part.route, "why": part.why[:MAX_WORDS], "attempt": part.attempt})


def _failure(answer: _Answer, failed: RouteFailed) -> bytes:
    """The end of a stream that broke off."""
    return answer.comment() + b"data: " + _encode(error_body(failed)).encode() + b"\n\n"


def _header_safe(text: str) -> bytes:
    """Names of models may be anything."""
    return text.encode("ascii", "backslashreplace").replace(b"\r", b" ").replace(b"\n", b" ")
