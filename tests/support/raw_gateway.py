"""A gateway that signs and sends exactly what a test tells it to."""

import json
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import httpx

from consumer.tls import unchecked_context
from protocol.headers import (
    REQUEST_HEADER,
    VERSION,
    VERSION_HEADER,
    VOUCHER_HEADER,
    Exposure,
    RequestContext,
    Signed,
    encode_request,
    parse_response_headers,
)
from protocol.ids import canonical_body, request_hash
from protocol.signing import Signer
from protocol.stream import StreamToken, parse_line
from protocol.typed_data import Domain, Receipt, Voucher
from tests.support.provider_stack import DOMAIN, SESSION
from tests.support.tiny_gguf import NAME

PATH = "/v1/chat/completions"


@dataclass
class Prepared:
    """A request ready to send; a test may change any part."""

    body: bytes
    context: RequestContext
    voucher: Signed[Voucher]
    path: str = PATH

    def headers(self) -> dict[str, str]:
        """What goes out, whether it fits together or not."""
        return {
            VERSION_HEADER: VERSION,
            VOUCHER_HEADER: self.voucher.encode(),
            REQUEST_HEADER: encode_request(self.context),
            "Content-Type": "application/json",
        }


@dataclass
class Received:
    """A streamed answer, taken apart."""

    text: str = ""
    finish_reason: str | None = None
    tokens: list[StreamToken] = field(default_factory=list)
    receipts: list[Signed[Receipt]] = field(default_factory=list)
    exposures: list[Exposure] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    done: bool = False

    @property
    def final(self) -> Receipt:
        """The final receipt's message."""
        assert self.receipts[-1].message.final
        return self.receipts[-1].message

    def feed(self, line: str) -> None:
        """Takes one line of the stream."""
        if line == "data: [DONE]":
            self.done = True
        elif line.startswith("data: "):
            content = json.loads(line[6:])
            self.error = content.get("error", self.error)
            self.usage = content.get("usage", self.usage)
            for choice in content.get("choices", []):
                self.text += choice.get("text", "") or choice.get("delta", {}).get("content", "")
                self.finish_reason = choice["finish_reason"] or self.finish_reason
        elif ours := parse_line(line):
            {StreamToken: self.tokens, Signed: self.receipts, Exposure: self.exposures}[type(ours)].append(ours)  # type: ignore[attr-defined]


def sign(
    lease_id: bytes, cumulative: int, context: bytes = bytes(32), signer: Signer = SESSION, domain: Domain = DOMAIN
) -> Signed[Voucher]:
    """A voucher."""
    voucher = Voucher(lease_id, cumulative, context)
    return Signed(voucher, signer.sign(domain, voucher))


def chat_body(text: str = "hello", **options: Any) -> bytes:
    """A chat request's bytes."""
    messages = options.pop("messages", [{"role": "user", "content": text}])
    content = {"model": NAME, "messages": messages, "max_tokens": 20, "temperature": 0, "stream": True, **options}
    return json.dumps(content).encode()


def prepare(
    lease_id: bytes,
    *,
    seq: int = 0,
    cumulative: int = 0,
    max_cost: int = 5_000,
    body: bytes | None = None,
    sent_at: int | None = None,
    signer: Signer = SESSION,
    domain: Domain = DOMAIN,
    path: str = PATH,
) -> Prepared:
    """A valid request, unless told otherwise."""
    body = chat_body() if body is None else body
    salt = secrets.token_bytes(32)
    sent_at = int(time.time()) if sent_at is None else sent_at
    context = RequestContext(seq, request_hash(salt, canonical_body(f"POST {path}", body)), max_cost, sent_at, salt)
    return Prepared(body, context, sign(lease_id, cumulative, context.context, signer, domain), path)


class RawGateway:
    """Sends to one provider."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=30, verify=unchecked_context())

    async def __aenter__(self) -> "RawGateway":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def post(self, prepared: Prepared, headers: dict[str, str] | None = None) -> httpx.Response:
        """Sends and reads the whole answer."""
        return await self.http.post(prepared.path, content=prepared.body, headers=headers or prepared.headers())

    async def ask(self, prepared: Prepared) -> Received:
        """Sends and takes the stream apart."""
        received = Received()
        async for _ in self.lines(prepared, received):
            pass
        return received

    async def lines(self, prepared: Prepared, received: Received) -> AsyncGenerator[str, None]:
        """The stream's lines, fed into `received` as they come."""
        async with self.http.stream(
            "POST", prepared.path, content=prepared.body, headers=prepared.headers()
        ) as response:
            assert response.status_code == httpx.codes.OK, await response.aread()
            async for line in response.aiter_lines():
                received.feed(line)
                yield line

    async def pay(self, voucher: Signed[Voucher]) -> httpx.Response:
        """Sends a voucher on the side channel."""
        headers = {VERSION_HEADER: VERSION, VOUCHER_HEADER: voucher.encode()}
        return await self.http.post(f"/v1/leases/0x{voucher.message.lease_id.hex()}/vouchers", headers=headers)


def refusal_code(response: httpx.Response) -> str:
    """The code in the header and in the body, which must agree."""
    code: str = response.json()["error"]["code"]
    header = parse_response_headers(response.headers.items()).refusal
    assert header is None or header.value == code
    return code
