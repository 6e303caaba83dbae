"""Sending what a running request brings: as an event stream, or whole."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from protocol.headers import VERSION, VERSION_HEADER, ResponseHeaders
from protocol.stream import StreamLine, StreamToken, encode_line
from provider.active_request import ActiveRequest
from provider.api.chat import ChatRequest
from provider.api.choices import Choice, Shape, Totals
from provider.api.completions import CompletionRequest
from provider.api.embeddings import EmbeddingRequest
from provider.api.errors import error_body, error_response
from provider.events import ChoiceEnded, Embedded, Event, Finished, Paused, Piece, ReceiptIssued
from provider.exceptions import Refusal

_DONE = b"data: [DONE]\n\n"
_STREAM_HEADERS = {VERSION_HEADER: VERSION, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class AnswerStream(StreamingResponse):
    """An answer as server-sent events. A client that leaves, at any point, abandons the request."""

    def __init__(self, active: ActiveRequest, asked: ChatRequest | CompletionRequest) -> None:
        lines = _stream(active, asked.shape(_answer_id(active), int(time.time())), wants_usage=asked.wants_usage)
        super().__init__(lines, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._active = active

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._active.abandon()


async def whole_answer(
    request: Request, active: ActiveRequest, asked: ChatRequest | CompletionRequest | EmbeddingRequest
) -> Response:
    """An answer in one piece; its receipt is a header. Once the client is gone the request is abandoned."""
    content: dict[str, Any] = {}
    headers: dict[str, str] = {}
    choices: list[Choice] = []
    tokens: list[list[int]] = []
    counts: Counter[int] = Counter()
    created = int(time.time())
    shape = None if isinstance(asked, EmbeddingRequest) else asked.shape(_answer_id(active), created)
    async for event in _until_disconnect(request, active):
        match event:
            case Piece() if shape is not None:
                _at(choices, event.choice, shape)[0].take(event)
                tokens.append([event.token, event.logprob])
                counts[event.choice] += 1
            case ChoiceEnded() if shape is not None:
                _at(choices, event.choice, shape)[0].close(event.finish_reason, event.text)
            case Embedded() if isinstance(asked, EmbeddingRequest):
                content = asked.answer(event.vectors, _totals(active).prompt)
            case ReceiptIssued() if event.signed.message.final:
                headers = ResponseHeaders(receipt=event.signed).encode()
            case Finished(failure=None):
                if shape is not None:
                    content = shape.whole([choice.whole() for choice in choices], _totals(active))
                    content["clawmarket"] = {"tokens": tokens, "counts": [counts[n] for n in range(len(choices))]}
                return JSONResponse(content, headers=headers)
            case Finished(failure=Refusal() as failure):
                return error_response(failure, headers or None, is_charged=True)
    raise Refusal("client_gone", "the client closed the connection", status=499)


async def _stream(active: ActiveRequest, shape: Shape, *, wants_usage: bool) -> AsyncIterator[bytes]:
    choices: list[Choice] = []
    last_receipt = b""

    def data(entries: list[dict[str, Any]]) -> bytes:
        pending = {"usage": None} if wants_usage else {}
        return b"".join(_data({**shape.chunk([entry]), **pending}) for entry in entries)

    async for event in active.events():
        match event:
            case Piece():
                choice, opening = _at(choices, event.choice, shape)
                token = _comment(StreamToken(event.token, event.logprob))
                yield data(opening) + token + data(choice.take(event))
            case ChoiceEnded():
                choice, opening = _at(choices, event.choice, shape)
                yield data(opening) + data(choice.close(event.finish_reason, event.text))
            case ReceiptIssued() if event.signed.message.final:
                last_receipt = _comment(event.signed)
            case ReceiptIssued():
                yield _comment(event.signed)
            case Paused():
                yield _comment(event.exposure)
            case Finished(failure=None):
                if wants_usage:
                    yield _data({**shape.chunk([]), "usage": _totals(active).usage()})
                yield last_receipt + _DONE
            case Finished(failure=Refusal() as failure):
                yield last_receipt + _data(error_body(failure))


def _at(choices: list[Choice], index: int, shape: Shape) -> tuple[Choice, list[dict[str, Any]]]:
    """A choice by its number, and what opens it if it is new; they come one after another."""
    if index < len(choices):
        return choices[index], []
    choices.append(shape.choice(index))
    return choices[index], choices[index].opening()


async def _until_disconnect(request: Request, active: ActiveRequest) -> AsyncIterator[Event]:
    """The events; once the client is gone the request is abandoned, and ends soon after."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        active.abandon()

    watcher = asyncio.create_task(watch())
    try:
        async for event in active.events():
            yield event
    finally:
        watcher.cancel()


def _answer_id(active: ActiveRequest) -> str:
    return f"{active.lease_id.hex()[:12]}-{active.seq}"


def _totals(active: ActiveRequest) -> Totals:
    meter = active.meter
    return Totals(meter.units_in + meter.units_cached, meter.units_cached, meter.units_out)


def _data(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def _comment(line: StreamLine) -> bytes:
    return encode_line(line).encode() + b"\n\n"
