"""The HTTP surface: OpenAI-compatible, with the market's headers beside."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from protocol.exceptions import InvalidHeader, UnsupportedVersion
from protocol.headers import (
    VERSION,
    VERSION_HEADER,
    VOUCHER_HEADER,
    RefusalCode,
    ResponseHeaders,
    check_version,
    parse_request_headers,
    parse_voucher,
)
from protocol.stream import StreamLine, StreamToken, encode_line
from provider.chat import ChatRequest, ChatShape, error_body, parse_chat, usage
from provider.exceptions import Refusal
from provider.service import ActiveRequest, AlreadyServed, Finished, InferenceService, Paused, Piece, ReceiptIssued

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_SEQ = 2**63 - 1
"""What the ledger can hold; the protocol allows twice as much."""
_DONE = b"data: [DONE]\n\n"


def create_app(service: InferenceService) -> FastAPI:
    """The application; the service's parts are started and stopped by the caller."""
    app = FastAPI(title="clawmarket provider", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        code = refusal.code if isinstance(refusal.code, RefusalCode) else None
        headers = ResponseHeaders(refusal=code).encode()
        return JSONResponse(error_body(refusal), refusal.status, headers)

    @app.exception_handler(InvalidHeader)
    async def bad_header(request: Request, error: InvalidHeader) -> Response:
        unsupported = isinstance(error, UnsupportedVersion)
        code = RefusalCode.UNSUPPORTED_VERSION if unsupported else RefusalCode.MALFORMED
        return await refused(request, Refusal(code, str(error)))

    @app.exception_handler(AlreadyServed)
    async def repeated(_: Request, served: AlreadyServed) -> Response:
        headers = ResponseHeaders(receipt=served.signed).encode()
        message = "this request was answered before: only its receipt is given again"
        body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "already_served"}}
        return JSONResponse(body, 409, headers)

    @app.get("/healthz")
    async def health() -> Response:
        ready = service.backends.is_ready()
        return JSONResponse({"ready": ready, "provider": service.provider}, 200 if ready else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = dict.fromkeys(offer.model_name for offer in service.offers.current())
        return {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 0, "owned_by": f"provider-{service.provider}"}
                for name in names
            ],
        }

    @app.get("/v1/offers/{offer_id}/{version}")
    async def offer(offer_id: int, version: int) -> Response:
        found = service.offers.find(offer_id, version)
        if found is None:
            raise Refusal("unknown_offer", "no such offer or version", status=404)
        return Response(found.to_json(), media_type="application/json")

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        signed, context = parse_request_headers(request.headers.items())
        _check_seq(context.seq)
        body = await _body(request)
        chat = parse_chat(body)
        active = await service.submit(signed, context, body, chat)
        if chat.stream:
            headers = {VERSION_HEADER: VERSION, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(_stream(active, chat), media_type="text/event-stream", headers=headers)
        return await _whole(request, active, chat)

    @app.post("/v1/leases/{lease_id}/vouchers")
    async def vouchers(lease_id: str, request: Request) -> Response:
        check_version(request.headers.items())
        signed = parse_voucher(request.headers.get(VOUCHER_HEADER))
        if lease_id != "0x" + signed.message.lease_id.hex():
            raise Refusal(RefusalCode.MALFORMED, "the voucher is for another lease than the address")
        exposure = await service.accept_voucher(signed)
        figures = exposure.as_header(signed.message.lease_id, paused=False)
        return Response(status_code=204, headers=ResponseHeaders(exposure=figures).encode())

    @app.get("/v1/receipts/{lease_id}/{seq}/proof")
    async def proof(lease_id: str, seq: int) -> dict[str, Any]:
        _check_seq(seq)
        return await _proof(service, _lease_id(lease_id), seq)

    return app


async def _body(request: Request) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            raise Refusal(RefusalCode.CAPS, f"the body has more than {MAX_BODY_BYTES} bytes")
    return bytes(received)


def _check_seq(seq: int) -> None:
    if not 0 <= seq <= MAX_SEQ:
        raise Refusal(RefusalCode.MALFORMED, f"seq must be from 0 to {MAX_SEQ}")


def _lease_id(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise Refusal(RefusalCode.MALFORMED, "a lease id is 0x and 64 hex digits")
    return raw


def _data(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def _comment(line: StreamLine) -> bytes:
    return encode_line(line).encode() + b"\n\n"


def _usage(active: ActiveRequest) -> dict[str, Any]:
    meter = active.meter
    return usage(meter.units_in + meter.units_cached, meter.units_cached, meter.units_out)


async def _stream(active: ActiveRequest, chat: ChatRequest) -> AsyncIterator[bytes]:
    shape = ChatShape(f"chatcmpl-{active.lease_id.hex()[:12]}-{active.seq}", chat.model)
    yield _data(shape.chunk({"role": "assistant", "content": ""}))
    last_receipt: bytes = b""
    async for event in active.events():
        match event:
            case Piece():
                token = _comment(StreamToken(event.token, event.logprob))
                yield token + _data(shape.chunk({"content": event.text})) if event.text else token
            case ReceiptIssued() if event.signed.message.final:
                last_receipt = _comment(event.signed)
            case ReceiptIssued():
                yield _comment(event.signed)
            case Paused():
                yield _comment(event.exposure)
            case Finished():
                if event.text:
                    yield _data(shape.chunk({"content": event.text}))
                if event.failure:
                    yield last_receipt + _data(error_body(event.failure))
                    return
                yield _data(shape.chunk({}, event.finish_reason))
                if chat.stream_options.include_usage:
                    yield _data(shape.usage_chunk(_usage(active)))
                yield last_receipt + _DONE


async def _whole(request: Request, active: ActiveRequest, chat: ChatRequest) -> Response:
    text: list[str] = []
    tokens: list[list[int]] = []
    headers: dict[str, str] = {}
    events = _until_disconnect(request, active)
    async for event in events:
        match event:
            case Piece():
                text.append(event.text)
                tokens.append([event.token, event.logprob])
            case ReceiptIssued() if event.signed.message.final:
                headers = ResponseHeaders(receipt=event.signed).encode()
            case Finished():
                if event.failure:
                    return JSONResponse(error_body(event.failure), event.failure.status, headers)
                text.append(event.text)
                shape = ChatShape(f"chatcmpl-{active.lease_id.hex()[:12]}-{active.seq}", chat.model)
                content = shape.completion("".join(text), event.finish_reason, _usage(active))
                return JSONResponse({**content, "clawmarket": {"tokens": tokens}}, headers=headers)
    raise Refusal("client_gone", "the client closed the connection", status=499)


async def _until_disconnect(request: Request, active: ActiveRequest) -> AsyncIterator[Any]:
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


async def _proof(service: InferenceService, lease_id: bytes, seq: int) -> dict[str, Any]:
    position = await service.write(service.ledger.position, lease_id, seq)
    if position is None:
        raise Refusal("unknown_receipt", "there is no final receipt of this request", status=404)
    anchor = await service.write(lambda: service.ledger.last_anchor(confirmed=True))
    if anchor is None or anchor.signed.message.count <= position:
        raise Refusal("not_anchored", "this receipt is not anchored yet", status=404)
    count = anchor.signed.message.count
    path = await service.write(service.ledger.inclusion_proof, position, count)
    return {
        "provider": service.provider,
        "position": position,
        "count": count,
        "root": "0x" + anchor.signed.message.root.hex(),
        "proof": ["0x" + node.hex() for node in path],
    }
