"""Asking a provider under a lease: stream the answer, count it, check every receipt, pay exactly what was counted."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from consumer.checks import Agreement, Answer, most_cost, prompt_bound, prompt_cost
from consumer.exceptions import ProviderFailed, ProviderRefused, ReceiptRejected
from consumer.store import LeaseRecord, Store
from consumer.tokenizer import PromptCounter
from consumer.vouchers import Authorised, VoucherBook
from protocol.exceptions import InvalidHeader
from protocol.headers import (
    VERSION,
    VERSION_HEADER,
    VOUCHER_HEADER,
    Exposure,
    RefusalCode,
    Signed,
    parse_response_headers,
    request_headers,
)
from protocol.ids import canonical_body, request_hash
from protocol.signing import Signer
from protocol.stream import StreamToken, parse_line
from protocol.typed_data import Domain, Receipt, Voucher

PATH = "/v1/chat/completions"
CONNECT_S, READ_S = 5.0, 120.0
MAX_LINE_CHARS = 1024 * 1024
RETRY_PAUSES_S = (0.0, 0.1, 0.5, 2.0)


@dataclass(frozen=True)
class Question:
    """One chat request."""

    messages: list[dict[str, str]]
    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Checked:
    """A receipt that was found right, and the voucher signed for it."""

    receipt: Signed[Receipt]
    voucher: Signed[Voucher]


@dataclass(frozen=True)
class End:
    """The end of an answer whose final receipt was checked."""

    finish_reason: str
    receipt: Signed[Receipt]
    voucher: Signed[Voucher]
    tokens: int


Event = Text | Checked | End


class LeaseClient:
    """One lease in use. Several questions may run at once."""

    def __init__(
        self,
        *,
        domain: Domain,
        store: Store,
        record: LeaseRecord,
        signer: Signer,
        now: Callable[[], int],
        counter: PromptCounter | None = None,
    ) -> None:
        self._domain = domain
        self._record = record
        self._now = now
        self._counter = counter
        self._book = VoucherBook(domain, store, record, signer, now)
        self._http = httpx.AsyncClient(base_url=record.endpoint, timeout=httpx.Timeout(READ_S, connect=CONNECT_S))
        self._payments: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Waits for payments on their way, then closes connections."""
        await self._finish_payments()
        await self._http.aclose()

    async def ask(self, question: Question) -> AsyncIterator[Event]:
        """The answer, piece by piece, ending with `End`.

        Raises ProviderRefused, ProviderFailed, ReceiptRejected, LeaseExhausted, StoreError.
        """
        prepay = False
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                async for event in self._attempt(question, prepay):
                    yield event
            except ProviderRefused as refusal:
                if pause_s is None or refusal.code not in (RefusalCode.PREPAY, RefusalCode.UNPAID):
                    raise
                # other answers of this lease may have run ahead of their receipts: pay those, and this prompt too
                prepay = True
                await self._finish_payments()
                await asyncio.sleep(pause_s)
            else:
                return

    async def _attempt(self, question: Question, prepay: bool) -> AsyncIterator[Event]:  # noqa: FBT001
        body = self._body(question)
        salt = secrets.token_bytes(32)
        hashed = request_hash(salt, canonical_body(f"POST {PATH}", body))
        counted = self._counter.count(question.messages) if self._counter else None
        bound = counted if counted is not None else prompt_bound(question.messages)
        terms = self._record.terms
        max_cost = most_cost(terms, bound, question.max_tokens)
        prepaid = prompt_cost(terms, bound) if prepay else 0
        authorised = await self._book.authorise(hashed, salt, max_cost, prepaid)
        agreement = Agreement(
            domain=self._domain,
            node_key=self._record.node_key,
            terms=terms,
            fingerprint=self._record.fingerprint,
            lease_id=self._record.lease_id,
            seq=authorised.context.seq,
            request_hash=hashed,
            max_cost=max_cost,
            prompt_tokens=counted,
            prompt_bound=bound,
        )
        stream = _AnswerStream(Answer(agreement), self._now)
        async for event in self._exchange(body, authorised, stream):
            yield event

    async def _exchange(self, body: bytes, authorised: Authorised, stream: "_AnswerStream") -> AsyncIterator[Event]:
        headers = {**request_headers(authorised.voucher, authorised.context), "Content-Type": "application/json"}
        voucher: Signed[Voucher] | None = None
        try:
            async with self._http.stream("POST", PATH, content=body, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    await self._refused(response, authorised.context.seq)
                async for line in response.aiter_lines():
                    for item in stream.feed(line):
                        if isinstance(item, Signed):
                            voucher = await self._book.pay(item)
                            self._pay_in_background(voucher)
                            yield Checked(item, voucher)
                        elif isinstance(item, Exposure):
                            if voucher is not None:
                                self._pay_in_background(voucher)
                        else:
                            yield Text(item)
        except httpx.HTTPError as error:
            raise ProviderFailed(f"the connection to {self._record.endpoint} broke: {type(error).__name__}") from error
        final = stream.final
        if final is None or voucher is None:
            raise ProviderFailed("the answer ended without its final receipt")
        if stream.failure is not None:
            raise ProviderFailed(f"the provider broke off: {stream.failure}")
        yield End(stream.finish_reason, final, voucher, final.message.units_out)

    async def _finish_payments(self) -> None:
        if self._payments:
            await asyncio.wait(self._payments)

    async def _refused(self, response: httpx.Response, seq: int) -> None:
        content = await response.aread()
        try:
            error = json.loads(content)["error"]
            code, message = str(error["code"]), str(error["message"])
        except (ValueError, KeyError, TypeError):
            code, message = f"http_{response.status_code}", "no reason given"
        try:
            refusal = parse_response_headers(response.headers.items()).refusal
        except InvalidHeader:
            refusal = None
        if refusal is not None or response.status_code in (400, 404):
            await self._book.refused(seq)
        raise ProviderRefused(response.status_code, refusal or code, message)

    def _pay_in_background(self, voucher: Signed[Voucher]) -> None:
        task = asyncio.create_task(self._send_voucher(voucher))
        self._payments.add(task)
        task.add_done_callback(self._payments.discard)

    async def _send_voucher(self, voucher: Signed[Voucher]) -> None:
        """Best effort: a voucher that does not arrive goes with the next request, or settles by `resend`."""
        headers = {VERSION_HEADER: VERSION, VOUCHER_HEADER: voucher.encode()}
        try:
            await self._http.post(f"/v1/leases/0x{self._record.lease_id.hex()}/vouchers", headers=headers)
        except httpx.HTTPError:
            return

    def _body(self, question: Question) -> bytes:
        content: dict[str, Any] = {
            "model": self._record.model,
            "messages": question.messages,
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "stream": True,
        }
        if question.seed is not None:
            content["seed"] = question.seed
        if question.stop:
            content["stop"] = list(question.stop)
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


class _AnswerStream:
    """Turns the lines of an event stream into text and checked receipts."""

    def __init__(self, answer: Answer, now: Callable[[], int]) -> None:
        self._answer = answer
        self._now = now
        self._sent = time.monotonic()
        self.final: Signed[Receipt] | None = None
        self.failure: str | None = None
        self.finish_reason = ""

    def feed(self, line: str) -> list[str | Signed[Receipt] | Exposure]:
        """What a line brings. Raises ReceiptRejected, ProviderFailed."""
        if len(line) > MAX_LINE_CHARS:
            raise ProviderFailed("the provider sent a line that is too long")
        if line.startswith("data: "):
            return self._data(line[len("data: ") :])
        try:
            ours = parse_line(line)
        except InvalidHeader as error:
            raise ProviderFailed(f"the provider sent a malformed line: {error}") from error
        if isinstance(ours, StreamToken):
            if self.final is not None:
                raise ReceiptRejected("final", "tokens after the final receipt")
            self._answer.add(ours, self._elapsed_ms())
            return []
        if isinstance(ours, Signed):
            self._answer.check(ours, elapsed_ms=self._elapsed_ms(), now=self._now())
            if ours.message.final:
                self.final = ours
            return [ours]
        return [] if ours is None else [ours]

    def _data(self, text: str) -> list[str | Signed[Receipt] | Exposure]:
        if text == "[DONE]":
            return []
        try:
            content = json.loads(text)
            if "error" in content:
                self.failure = str(content["error"]["message"])
                return []
            choice = content["choices"][0] if content["choices"] else {}
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            piece = choice.get("delta", {}).get("content") or ""
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ProviderFailed("the provider sent a malformed chunk") from error
        return [str(piece)] if piece else []

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._sent) * 1000)
