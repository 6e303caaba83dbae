"""A provider with a real node key and a real HTTP surface that does what a test tells it, honest or not."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from protocol.headers import (
    VERSION,
    VERSION_HEADER,
    RefusalCode,
    RequestContext,
    ResponseHeaders,
    Signed,
    parse_request_headers,
    parse_voucher,
)
from protocol.merkle import response_root
from protocol.signing import Signer
from protocol.stream import StreamToken, encode_line
from protocol.typed_data import Receipt, Voucher
from tests.support.provider_stack import DOMAIN, NODE, make_offer
from tests.support.tiny_gguf import FIRST_BYTE_TOKEN

PRICE_IN, PRICE_OUT = 10, 30


def spelled(text: str, logprob: int = -5) -> list[tuple[StreamToken, str]]:
    """The tiny model's tokens for ASCII text, each with the text it shows."""
    return [(StreamToken(FIRST_BYTE_TOKEN + byte, logprob), chr(byte)) for byte in text.encode("ascii")]


@dataclass
class Seen:
    """One request as it arrived."""

    voucher: Signed[Voucher]
    context: RequestContext
    headers: dict[str, str]
    body: bytes


@dataclass
class HostileProvider:
    """`prompt` is what it bills as input; the rest says what it answers and where it breaks off.

    It keeps its final receipts and answers repeats with them, as every provider must.
    """

    prompt: int
    answer: list[tuple[StreamToken, str]] = field(default_factory=lambda: spelled("abc"))
    changes: dict[str, Any] = field(default_factory=dict)
    stored_changes: dict[str, Any] = field(default_factory=dict)
    lines_before: list[str] = field(default_factory=list)
    lines_after: list[str] = field(default_factory=list)
    sends_receipt: bool = True
    breaks_after: int | None = None
    part_after: int | None = None
    fails: bool = False
    keeps_receipts: bool = True
    refusal: tuple[RefusalCode, dict[str, Any]] | None = None
    is_busy: int = 0
    signer: Signer = NODE
    seen: list[Seen] = field(default_factory=list)
    stored: dict[int, Signed[Receipt]] = field(default_factory=dict)
    paid: list[int] = field(default_factory=list)

    def sign(self, receipt: Receipt) -> Signed[Receipt]:
        """With the node key."""
        return Signed(receipt, self.signer.sign(DOMAIN, receipt))

    def receipt(self, seen: Seen, count: int, **changes: Any) -> Receipt:
        """The honest receipt of the first `count` tokens, then changed."""
        honest = Receipt(
            lease_id=seen.voucher.message.lease_id,
            seq=seen.context.seq,
            part=0,
            final=True,
            cost=self.prompt * PRICE_IN + count * PRICE_OUT,
            units_in=self.prompt,
            units_out=count,
            units_cached=0,
            request_hash=seen.context.request_hash,
            response_hash=response_root((token.token_id, token.logprob) for token, _ in self.answer[:count]),
            ttft_ms=0,
            duration_ms=1,
            ended_at=seen.context.sent_at,
            model_fingerprint=make_offer().fingerprint,
        )
        return replace(honest, **changes)

    def app(self) -> FastAPI:
        """Its HTTP surface."""
        app = FastAPI()

        @app.post("/v1/leases/{lease_id}/vouchers")
        async def vouchers(lease_id: str, request: Request) -> Response:
            self.paid.append(parse_voucher(request.headers["Clawmarket-Voucher"]).message.cumulative)
            return Response(status_code=204)

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            voucher, context = parse_request_headers(request.headers.items())
            ours = {name: value for name, value in request.headers.items() if name.startswith("clawmarket")}
            seen = Seen(voucher, context, ours, await request.body())
            self.seen.append(seen)
            if self.fails:
                raise ConnectionAbortedError
            if self.refusal is not None:
                code, details = self.refusal
                error = {"message": "no", "code": code.value, "details": details}
                return JSONResponse({"error": error}, code.http_status, ResponseHeaders(refusal=code).encode())
            if context.seq in self.stored:
                if self.is_busy:
                    self.is_busy -= 1
                    busy = ResponseHeaders(refusal=RefusalCode.BUSY).encode()
                    return JSONResponse({"error": {"message": "wait", "code": "busy"}}, 409, busy)
                answer = {"error": {"message": "answered before", "code": "already_served"}}
                return JSONResponse(answer, 409, ResponseHeaders(receipt=self.stored[context.seq]).encode())
            return StreamingResponse(
                self._stream(seen), media_type="text/event-stream", headers={VERSION_HEADER: VERSION}
            )

        return app

    async def _stream(self, seen: Seen) -> AsyncIterator[str]:
        final = self.receipt(seen, len(self.answer), part=int(self.part_after is not None))
        if self.keeps_receipts:
            self.stored[seen.context.seq] = self.sign(replace(final, **self.stored_changes))
        for line in self.lines_before:
            yield line + "\n\n"
        for count, (token, text) in enumerate(self.answer):
            if count == self.breaks_after:
                raise ConnectionAbortedError
            if count == self.part_after:
                yield encode_line(self.sign(self.receipt(seen, count, final=False))) + "\n\n"
            yield encode_line(token) + "\n\n"
            if text:
                yield "data: " + json.dumps({"choices": [{"delta": {"content": text}}]}) + "\n\n"
        if self.breaks_after is not None and self.breaks_after >= len(self.answer):
            raise ConnectionAbortedError
        if self.sends_receipt:
            yield encode_line(self.sign(replace(final, **self.changes))) + "\n\n"
        for line in self.lines_after:
            yield line.replace("RECEIPT", encode_line(self.sign(final))) + "\n\n"
