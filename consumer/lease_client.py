"""Asking a provider under a lease: stream the answer, count it, check every receipt, pay exactly what was counted."""

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from consumer.answer_stream import MAX_WORDS, AnswerStream, Choices, items, whole
from consumer.asked import Asked
from consumer.checks import Agreement, Answer, most_cost, prompt_bound, prompt_cost
from consumer.exceptions import (
    ConsumerError,
    LeaseExhausted,
    PrepayRejected,
    ProviderFailed,
    ProviderRefused,
    ReceiptRejected,
    StoreError,
    TokenizerUnusable,
)
from consumer.node_keys import KeyLookup, NodeKeys
from consumer.records import OWN_ENGINE, Draft, LeaseRecord, Limits, OpenRequest, RequestState
from consumer.repeating import CHAT, Repeated, paid_headers, repeat
from consumer.shown_choices import Shape, ShownChoices
from consumer.store import Store
from consumer.tls import verification, wrong_key
from consumer.tokenizer import PromptCounter
from consumer.transport import ProviderHttp, Response
from consumer.vouchers import Authorised, Hold, VoucherBook
from consumer.whole_answer import count_whole
from protocol.chain.exceptions import ChainError
from protocol.exceptions import InvalidHeader
from protocol.headers import (
    MAX_CLOCK_SKEW_S,
    VERSION,
    VERSION_HEADER,
    VOUCHER_HEADER,
    Exposure,
    RefusalCode,
    ResponseHeaders,
    Signed,
    parse_response_headers,
)
from protocol.ids import canonical_body, request_hash
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt, Voucher

CONNECT_S, READ_S = 5.0, 120.0
MAX_REFUSAL_BYTES = 64 * 1024
MAX_EMBEDDING_BYTES = 64 * 1024 * 1024
MAX_VECTOR_BYTES = 512 * 1024
VOUCHER_PAUSE_S = 0.02
"""Before a voucher on the side channel, unless the provider waits for it; requests carry vouchers too."""
ADMITTED_S = 0.1
"""An answer that is whole sooner is not first noted as begun."""
PAY_PAUSES_S = (0.1, 0.5, 2.0)
"""Between attempts at recording a payment on a disk that fails."""
RETRY_PAUSES_S = (0.0, 0.1, 0.5, 2.0)
REPEAT_PAUSES_S = (0.0, 0.1, 0.3, 1.0, 2.0)
RESOLVE_S = 2.0
"""How long a new request waits for the ends of earlier ones: a provider that hides them shall not hold it up."""
GIVEN_UP_S = 3_600
"""A request of whose answer nothing was ever seen has ended then: money is not kept aside for ever."""
UNSEEN_TOKENS = 32
"""One chunk: tokens on their way when a stream breaks are paid up to this many, else a break would wedge the lease."""

_log = logging.getLogger(__name__)


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
    """A receipt that was found right, and what is owed for the request."""

    receipt: Signed[Receipt]
    owed: int


@dataclass(frozen=True)
class End:
    """The end of an answer whose final receipt was checked."""

    finish_reason: str
    receipt: Signed[Receipt]
    tokens: int


Event = Text | Checked | End


@dataclass
class Exchange:
    """One request on its way: its number is taken and its voucher signed."""

    path: str
    authorised: Authorised
    stream: AnswerStream
    is_rejected: bool = False
    is_admitted: bool = False
    has_ended: bool = False
    owed: int = 0
    payment: asyncio.Task[None] | None = None

    @property
    def seq(self) -> int:
        """Its number."""
        return self.authorised.context.seq

    def headers(self) -> dict[str, str]:
        """What goes out with the body."""
        return paid_headers(self.authorised.voucher, self.authorised.context)


class LeaseClient:
    """One lease in use. Several questions may run at once.

    Without `counter` nothing a provider counts can be checked, so nothing is asked, unless `accept_unverified` says
    that its counts are to be believed. `key_lookup` asks the registry about a node key; without it only the key known
    at the lease's opening counts. `unseen_tokens` bounds what is paid beyond what arrived when a stream breaks.
    """

    def __init__(
        self,
        *,
        domain: Domain,
        store: Store,
        record: LeaseRecord,
        signer: Signer,
        now: Callable[[], int],
        counter: PromptCounter | None = None,
        key_lookup: KeyLookup | None = None,
        accept_unverified: bool = False,
        unseen_tokens: int = UNSEEN_TOKENS,
        hold: Callable[[Draft], Hold] | None = None,
        idle_timeout_s: float = READ_S,
    ) -> None:
        self.record = record
        self.counter = counter
        self._store = store
        self._now = now
        self._accept_unverified = accept_unverified
        self._unseen_tokens = unseen_tokens
        self._idle_s = idle_timeout_s
        self._keys = NodeKeys(domain, store, record, key_lookup)
        self._book = VoucherBook(domain, store, record, signer, now, hold)
        self._http = ProviderHttp(record.endpoint, verification(record.tls_pin), CONNECT_S, idle_timeout_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_unsent = False
        self._is_sending = False
        self._is_waited_for = asyncio.Event()
        self._running: set[int] = set()
        self._loose = set(self._book.open)  # whose end nobody is finding out
        self._resolving: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()
        self.payments = 0
        """How many receipts were paid."""
        self._credit_cap = 0

    async def close(self) -> None:
        """Waits for payments and repeats on their way, then closes connections."""
        await self.finish()
        await self._http.aclose()

    async def ask(self, question: Question) -> AsyncGenerator[Event, None]:
        """The answer, piece by piece, ending with `End`.

        Raises TokenizerUnusable, ProviderRefused, ProviderFailed, PrepayRejected, ReceiptRejected, LeaseExhausted,
        StoreError.
        """
        wanted = Asked(CHAT, self._limits(question), Shape(question.stop))
        async with aclosing(self.answer(wanted, self._body(question))) as events:
            async for event in events:
                if not isinstance(event, Choices):
                    yield event
                elif event.text:
                    yield Text(event.text)

    async def answer(
        self, asked: Asked, body: bytes, key_id: str = ""
    ) -> AsyncGenerator[Choices | Checked | End, None]:
        """The streamed answer to a body, as its chunks have it; raises as `ask` does, and what `hold` raises."""
        turns = self.turns(asked.limits, key_id)
        while True:
            exchange = await turns.begin(asked.path, body, asked.shape)
            try:
                async with aclosing(self._exchange(body, exchange)) as events:
                    async for event in events:
                        yield event
            except ProviderRefused as refusal:
                self.end(exchange)
                if not await turns.may_try_again(refusal):
                    raise
            else:
                return
            finally:
                self.end(exchange)

    async def embed(self, asked: Asked, body: bytes, key_id: str = "") -> tuple[list[dict[str, Any]], Signed[Receipt]]:
        """The `data` of an embedding, and its receipt, which is paid; raises as `answer` does."""
        turns = self.turns(asked.limits, key_id)
        while True:
            exchange = await turns.begin(asked.path, body, None)
            try:
                return await self._embed(exchange, body, asked.vectors)
            except ProviderRefused as refusal:
                self.end(exchange)
                if not await turns.may_try_again(refusal):
                    raise
            finally:
                self.end(exchange)

    async def _embed(
        self, exchange: "Exchange", body: bytes, vectors: int
    ) -> tuple[list[dict[str, Any]], Signed[Receipt]]:
        async with self._sent(exchange, body) as response:
            content = await whole(response, min(MAX_REFUSAL_BYTES + vectors * MAX_VECTOR_BYTES, MAX_EMBEDDING_BYTES))
            # a large one takes seconds, in which others go on
            signed = await asyncio.to_thread(count_whole, exchange.stream, vectors, response.headers, content)
            await self.accept(exchange, signed)
            data: list[dict[str, Any]] = (await asyncio.to_thread(json.loads, content))["data"]
            return data, signed

    def turns(self, limits: Limits, key_id: str = "") -> "Turns":
        """The attempts at one request."""
        return Turns(self, limits, key_id)

    def room(self) -> int:
        """What another request may cost at most, in token base units."""
        return self._book.room()

    @property
    def book(self) -> VoucherBook:
        """What the lease owes."""
        return self._book

    async def resolve(self) -> None:
        """Finds out the end of requests that broke off, in this run or an earlier one, and pays what is right.

        What cannot be found out now, and soon, stays for the next time. Raises StoreError.
        """
        if self._has_unsent or self._book.is_behind:
            self._send_soon()
        self._loose &= self._book.open
        if not self._loose:
            return
        if self._resolving is None or self._resolving.done():
            self._resolving = self._start(self._resolve_loose())
        done, _ = await asyncio.wait([self._resolving], timeout=RESOLVE_S)
        for task in done:
            task.result()

    async def _resolve_loose(self) -> None:
        requests = [each for each in self._store.unfinished(self.record.lease_id) if each.context.seq in self._loose]
        answers = [Answer.resumed(self._agreement(each), each.last.message if each.last else None) for each in requests]
        found = [self._resolve(*each, self._unseen_tokens) for each in zip(requests, answers, strict=True)]
        await asyncio.gather(*found)

    async def begin(
        self,
        path: str,
        body: bytes,
        limits: Limits,
        shape: Shape | None,
        *,
        prepays: bool,
        key_id: str = "",
    ) -> "Exchange":
        """Reserves a number for a request and signs for it: from here on it must be ended by `end`.

        `shape` is how its answer shows its tokens, None where it has none. Raises TokenizerUnusable, LeaseExhausted,
        StoreError.
        """
        if self.counter is None and not self._accept_unverified:
            raise TokenizerUnusable(
                "what the provider counts could not be checked: give the GGUF file of "
                f"{self.record.model} as `tokenizer`, or set `accept_unverified` to believe the provider"
            )
        await self.resolve()
        salt = secrets.token_bytes(32)
        terms = self.record.terms
        draft = Draft(
            body=body,
            request_hash=request_hash(salt, canonical_body(f"POST {path}", body)),
            salt=salt,
            max_cost=most_cost(terms, limits.prompt_bound, limits.max_tokens),
            prepaid=prompt_cost(terms, limits.prompt_bound) if prepays else 0,
            limits=limits,
            key_id=key_id,
        )
        authorised = await self._authorise(draft)
        agreement = Agreement(
            self.record.lease_id,
            terms,
            self.record.fingerprint,
            authorised.context,
            draft.limits,
            self.record.engine == OWN_ENGINE,
        )
        shown = ShownChoices(self.counter, shape, limits.max_tokens) if self.counter and shape else None
        answer = Answer(agreement, shown)
        self._running.add(authorised.context.seq)
        return Exchange(path, authorised, AnswerStream(answer, path))

    def admitted(self, exchange: "Exchange") -> None:
        """The provider began to answer."""
        if not exchange.is_admitted:
            exchange.is_admitted = True
            asyncio.get_running_loop().call_later(ADMITTED_S, self._note_admitted, exchange)

    def _note_admitted(self, exchange: "Exchange") -> None:
        if exchange.seq in self._book.open:
            self._start(self._book.admitted(exchange.seq))

    def end(self, exchange: "Exchange") -> None:
        """After an exchange, however it ended; again is no fault."""
        if exchange.has_ended:
            return
        exchange.has_ended = True
        if exchange.payment is None or exchange.payment.done():
            self._ended(exchange)
        else:
            exchange.payment.add_done_callback(lambda _: self._ended(exchange))

    def _ended(self, exchange: "Exchange") -> None:
        self._running.discard(exchange.seq)
        if not exchange.is_admitted:
            self._loose.add(exchange.seq)
        else:
            self._leave(exchange.stream.answer, 0 if exchange.is_rejected else self._unseen_tokens)
        if not self._running:
            self._advanced()

    async def _authorise(self, draft: Draft) -> Authorised:
        try:
            return await self._book.authorise(draft)
        except LeaseExhausted:
            await self._finish_soon()
            await self.resolve()
            return await self._book.authorise(draft)

    async def _exchange(self, body: bytes, exchange: "Exchange") -> AsyncGenerator[Choices | Checked | End, None]:
        final: Signed[Receipt] | None = None
        stream = exchange.stream
        async with self._sent(exchange, body) as response, aclosing(items(response, stream, self._idle_s)) as found:
            async for item in found:
                if isinstance(item, Signed):
                    await self.accept(exchange, item)
                    final = item if item.message.final else None
                    yield Checked(item, exchange.owed)
                elif isinstance(item, Exposure):
                    self.note(item)
                else:
                    yield item
        if final is None:
            raise ProviderFailed("the answer ended without its final receipt")
        if stream.failure is not None:
            raise ProviderFailed(f"the provider broke off: {stream.failure}")
        yield End(stream.finish_reason, final, final.message.units_out)

    @asynccontextmanager
    async def _sent(self, exchange: "Exchange", body: bytes) -> AsyncIterator[Response]:
        """The response to an admitted request. Raises ProviderRefused, ProviderFailed, ReceiptRejected."""
        try:
            async with self._http.post(exchange.path, exchange.headers(), body) as response:
                if response.status_code != httpx.codes.OK:
                    content = await whole(response, MAX_REFUSAL_BYTES)
                    raise await self.refused(exchange, response.status_code, response.headers, content)
                self.admitted(exchange)
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            await self._book.refused(exchange.seq)
            raise self._broken(error) from error
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        except ReceiptRejected:
            exchange.is_rejected = True
            raise

    async def accept(self, exchange: "Exchange", signed: Signed[Receipt]) -> None:
        """Checks a receipt; it is paid beside other work. Raises ReceiptRejected, ProviderFailed."""
        stream = exchange.stream
        elapsed_ms = stream.elapsed_ms()
        try:
            await self._keys.check(signed)
            stream.answer.check(signed.message, elapsed_ms=elapsed_ms, now=self._now())
        except ChainError as error:
            raise ProviderFailed(f"a receipt is by a new key, and the registry cannot be asked: {error}") from error
        except ReceiptRejected:
            exchange.is_rejected = True
            raise
        due = stream.answer.due(signed.message, round(stream.waited_s * 1000))
        if due < signed.message.cost and signed.message.final:
            _log.info(
                "request %d of lease 0x%s: the SLA was missed by our clock: %d of %d base units are paid",
                exchange.seq,
                self.record.lease_id.hex(),
                due,
                signed.message.cost,
            )
        exchange.owed = due
        exchange.payment = self._start(self._pay(signed, due, exchange.payment))

    async def _pay(self, signed: Signed[Receipt], due: int, before: asyncio.Task[None] | None) -> None:
        """Keeps a checked receipt and pays it. Raises StoreError."""
        if before is not None and not before.done():
            await asyncio.wait([before])
        pauses = iter(PAY_PAUSES_S)
        while True:
            try:
                await self._book.pay(signed, due)
            except StoreError as error:
                if (pause_s := next(pauses, None)) is None:
                    raise
                _log.warning("lease 0x%s: a receipt waits for the disk: %s", self.record.lease_id.hex(), error)
                await asyncio.sleep(pause_s)
            else:
                break
        self._send_soon()
        self._paid()

    def note(self, exposure: Exposure) -> None:
        """The provider shows its figures, because it waits: the last voucher goes out, or goes out once more."""
        if exposure.lease_id == self.record.lease_id:
            self._credit_cap = max(self._credit_cap, exposure.credit_cap)
        self._send_soon()
        self._is_waited_for.set()

    async def make_room(self, payments: int, pauses: Iterator[float]) -> bool:
        """Waits for other requests of this lease, which may have run ahead of their receipts; then for a while.

        `payments` are those before the request. Only a payment is a reason to ask again at once: requests that all
        are refused would wake each other for ever. False once there is nothing left to wait for.
        """
        if self._running and self.payments == payments:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._progress.wait(), READ_S)
        if self.payments > payments:
            return True
        pause_s = next(pauses, None)
        if pause_s is None:
            return False
        await self._finish_soon()
        await asyncio.sleep(pause_s)
        return True

    def is_prepayment_due(self, limits: Limits, refusal: ProviderRefused) -> bool:
        """Only a prompt that by our own count costs more than the advertised credit cap is paid in advance.

        Raises PrepayRejected.
        """
        try:
            cap = max(self._credit_cap, int(str(refusal.details["credit_cap"])))
        except (KeyError, ValueError):
            raise PrepayRejected("the provider asks for prepayment without naming its credit cap") from refusal
        if limits.prompt_tokens is None:
            raise PrepayRejected("a prompt is paid in advance only where a tokenizer counts it") from refusal
        return prompt_cost(self.record.terms, limits.prompt_tokens) > cap

    def _paid(self) -> None:
        self.payments += 1
        self._advanced()

    def _advanced(self) -> None:
        """Something was paid, or nothing runs any more."""
        self._progress.set()
        self._progress = asyncio.Event()

    def _leave(self, answer: Answer, unseen: int) -> None:
        """After a stream, however it ended: what is still open is brought to an end beside other work."""
        lease_id, seq = self.record.lease_id, answer.agreement.request.seq
        if seq not in self._book.open:
            return
        if answer.is_false:
            self._start(self._book.dispute(seq))
            return
        request = next((found for found in self._store.unfinished(lease_id) if found.context.seq == seq), None)
        if request is None:
            return
        request = replace(request, state=RequestState.ADMITTED)
        self._running.add(seq)
        self._start(self._resolve_patiently(request, answer, unseen))

    async def _resolve_patiently(self, request: OpenRequest, answer: Answer, unseen: int) -> None:
        try:
            for pause_s in REPEAT_PAUSES_S:
                await asyncio.sleep(pause_s)
                if await self._resolve(request, answer, unseen):
                    return
        finally:
            self._running.discard(request.context.seq)
            self._loose.add(request.context.seq)
            if not self._running:
                self._advanced()

    async def _resolve(self, request: OpenRequest, answer: Answer, unseen: int) -> bool:
        """Whether the request's end is known now."""
        lease_id, seq = self.record.lease_id, request.context.seq
        is_past = self._now() > request.context.sent_at + MAX_CLOCK_SKEW_S
        if request.state is RequestState.SIGNED and not is_past:
            return False  # the provider may not know it yet, and would start it now
        outcome = await repeat(self._http, request, request.voucher)
        if isinstance(outcome, Signed):
            return await self._pay_stored(outcome, answer, unseen)
        if outcome is Repeated.DENIED and is_past:
            await self._book.refused(seq)
            return True
        if outcome is Repeated.ANSWERED_ANEW:
            _log.warning("request %d of lease 0x%s was answered a second time: disputed", seq, lease_id.hex())
            await self._book.dispute(seq)
            return True
        if request.state is RequestState.SIGNED and self._now() > request.context.sent_at + GIVEN_UP_S:
            await self._book.write_off(seq)
            return True
        return False

    async def _pay_stored(self, signed: Signed[Receipt], answer: Answer, unseen: int) -> bool:
        request = answer.agreement.request
        try:
            await self._keys.check(signed)
            owed = answer.check_stored(signed.message, unseen=unseen, now=self._now())
        except ChainError:
            return False
        except ReceiptRejected as error:
            _log.warning("request %d of lease 0x%s: %s", request.seq, self.record.lease_id.hex(), error)
            await self._book.dispute(request.seq)
            return True
        await self._book.pay(signed, owed)
        self._send_soon()
        self._paid()
        return True

    async def finish(self) -> None:
        """Waits for payments and repeats on their way."""
        self._is_waited_for.set()
        while self._tasks:  # a repeat that ends starts a payment
            await asyncio.wait(self._tasks)

    async def _finish_soon(self) -> None:
        """The same, as far as it does not hold up a request: others may go on and on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESOLVE_S):
                await self.finish()

    async def refused(
        self, exchange: "Exchange", status: int, headers: httpx.Headers, content: bytes
    ) -> ProviderRefused:
        """What a refusal says; one that came before any work costs nothing. Raises StoreError."""
        try:
            error = json.loads(content)["error"]
            code, message = str(error["code"])[:MAX_WORDS], str(error["message"])[:MAX_WORDS]
            details = error.get("details")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            code, message, details = f"http_{status}", "no reason given", None
        try:
            said = parse_response_headers(headers.items())
        except InvalidHeader:
            said = ResponseHeaders()
        if said.receipt is not None:
            self.admitted(exchange)
        elif said.refusal is not None or status in (400, 404):
            await self._book.refused(exchange.seq)
        return ProviderRefused(
            status,
            said.refusal or code,
            message,
            details if isinstance(details, dict) else None,
            is_charged=said.receipt is not None,
            retry_after_s=_seconds(headers.get("Retry-After", "")),
        )

    def _send_soon(self) -> None:
        """One voucher is on its way at a time; the next one is for all that is owed by then."""
        self._has_unsent = True
        if not self._is_sending:
            self._is_sending = True
            self._start(self._send_vouchers())

    async def _send_vouchers(self) -> None:
        try:
            while self._has_unsent:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._is_waited_for.wait(), VOUCHER_PAUSE_S)
                self._is_waited_for.clear()
                self._has_unsent = False
                await self._send_voucher(await self._book.voucher())
        except StoreError:
            self._has_unsent = True
            raise
        finally:
            self._is_sending = False

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("lease 0x%s: %s", self.record.lease_id.hex(), error)

    async def _send_voucher(self, voucher: Signed[Voucher]) -> None:
        """Best effort: one that does not arrive is made up for by the next voucher, which is never lower."""
        headers = {VERSION_HEADER: VERSION, VOUCHER_HEADER: voucher.encode()}
        try:
            async with self._http.post(f"/v1/leases/0x{self.record.lease_id.hex()}/vouchers", headers) as response:
                await whole(response, MAX_REFUSAL_BYTES)
        except (httpx.HTTPError, ProviderFailed):
            return

    def _broken(self, error: Exception) -> ConsumerError:
        reason = wrong_key(error) or type(error).__name__
        return ProviderFailed(f"the connection to {self.record.endpoint} broke: {reason}")

    def _agreement(self, request: OpenRequest) -> Agreement:
        record = self.record
        return Agreement(
            record.lease_id,
            record.terms,
            record.fingerprint,
            request.context,
            request.limits,
            record.engine == OWN_ENGINE,
        )

    def _limits(self, question: Question) -> Limits:
        counted = self.counter.count(question.messages) if self.counter else None
        bound = counted if counted is not None else prompt_bound(question.messages)
        return Limits(counted, bound, question.max_tokens)

    def _body(self, question: Question) -> bytes:
        content: dict[str, Any] = {
            "model": self.record.model,
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


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else None


class Turns:
    """The attempts at one request: one that is refused for want of payment waits, and then is asked anew."""

    def __init__(self, client: LeaseClient, limits: Limits, key_id: str) -> None:
        self._client = client
        self._key_id = key_id
        self._limits = limits
        self._pauses = iter(RETRY_PAUSES_S)
        self._payments = client.payments
        self._until = time.monotonic() + READ_S
        self._prepays = False

    async def begin(self, path: str, body: bytes, shape: Shape | None) -> Exchange:
        """The next attempt; see `LeaseClient.begin`."""
        self._payments = self._client.payments
        return await self._client.begin(path, body, self._limits, shape, prepays=self._prepays, key_id=self._key_id)

    async def may_try_again(self, refusal: ProviderRefused) -> bool:
        """Whether another attempt may succeed, after waiting for it. Raises PrepayRejected."""
        if refusal.is_charged or refusal.code not in (RefusalCode.PREPAY, RefusalCode.UNPAID):
            return False
        if time.monotonic() > self._until:
            return False
        if refusal.code == RefusalCode.PREPAY and not self._prepays:
            self._prepays = self._client.is_prepayment_due(self._limits, refusal)
        return await self._client.make_room(self._payments, self._pauses)
