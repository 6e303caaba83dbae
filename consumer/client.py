"""Asking a provider under a lease: stream the answer, count it, check every receipt, pay exactly what was counted."""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from consumer.answer_stream import AnswerStream, items, whole
from consumer.checks import Agreement, Answer, most_cost, prompt_bound, prompt_cost
from consumer.exceptions import (
    ConsumerError,
    LeaseExhausted,
    PrepayRejected,
    ProviderFailed,
    ProviderRefused,
    ReceiptRejected,
    TokenizerUnusable,
)
from consumer.node_keys import KeyLookup, NodeKeys
from consumer.records import Draft, LeaseRecord, Limits, OpenRequest, RequestState
from consumer.repeating import Repeated, paid_headers, repeat
from consumer.shown_text import ShownText
from consumer.store import Store
from consumer.tls import verification, wrong_key
from consumer.tokenizer import PromptCounter
from consumer.vouchers import Authorised, VoucherBook
from protocol.chain.exceptions import ChainError
from protocol.exceptions import InvalidHeader
from protocol.headers import (
    MAX_CLOCK_SKEW_S,
    VERSION,
    VERSION_HEADER,
    VOUCHER_HEADER,
    Exposure,
    RefusalCode,
    Signed,
    parse_response_headers,
)
from protocol.ids import canonical_body, request_hash
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt, Voucher

PATH = "/v1/chat/completions"
CONNECT_S, READ_S = 5.0, 120.0
MAX_REFUSAL_BYTES = 64 * 1024
RETRY_PAUSES_S = (0.0, 0.1, 0.5, 2.0)
REPEAT_PAUSES_S = (0.0, 0.1, 0.3, 1.0, 2.0)
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
    ) -> None:
        self._store = store
        self._record = record
        self._now = now
        self._counter = counter
        self._accept_unverified = accept_unverified
        self._unseen_tokens = unseen_tokens
        self._keys = NodeKeys(domain, store, record, key_lookup)
        self._book = VoucherBook(domain, store, record, signer, now)
        self._http = httpx.AsyncClient(
            base_url=record.endpoint,
            verify=verification(record.tls_pin),
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            headers={"Accept-Encoding": "identity"},
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: set[int] = set()
        self._progress = asyncio.Event()
        self._credit_cap = 0

    async def close(self) -> None:
        """Waits for payments and repeats on their way, then closes connections."""
        await self._finish_tasks()
        await self._http.aclose()

    async def ask(self, question: Question) -> AsyncGenerator[Event, None]:
        """The answer, piece by piece, ending with `End`.

        Raises TokenizerUnusable, ProviderRefused, ProviderFailed, PrepayRejected, ReceiptRejected, LeaseExhausted,
        StoreError.
        """
        if self._counter is None and not self._accept_unverified:
            raise TokenizerUnusable(
                "what the provider counts could not be checked: give the GGUF file of "
                f"{self._record.model} as `tokenizer`, or set `accept_unverified` to believe the provider"
            )
        await self.resolve()
        pauses = iter(RETRY_PAUSES_S)
        prepay = False
        while True:
            progress = self._progress
            try:
                async with aclosing(self._attempt(question, prepay)) as events:
                    async for event in events:
                        yield event
            except ProviderRefused as refusal:
                if refusal.code not in (RefusalCode.PREPAY, RefusalCode.UNPAID):
                    raise
                prepay = prepay or (refusal.code == RefusalCode.PREPAY and self._is_prepayment_due(question, refusal))
                await self._make_room(progress, pauses, refusal)
            else:
                return

    async def resolve(self) -> None:
        """Finds out the end of requests that broke off, in this run or an earlier one, and pays what is right.

        What cannot be found out now stays for the next time. Raises StoreError.
        """
        for request in self._store.unfinished(self._record.lease_id):
            if request.context.seq not in self._running:
                answer = Answer.resumed(self._agreement(request), request.last.message if request.last else None)
                await self._resolve(request, answer, self._unseen_tokens)

    async def _attempt(self, question: Question, prepay: bool) -> AsyncGenerator[Event, None]:  # noqa: FBT001
        body = self._body(question)
        salt = secrets.token_bytes(32)
        limits = self._limits(question)
        terms = self._record.terms
        draft = Draft(
            body=body,
            request_hash=request_hash(salt, canonical_body(f"POST {PATH}", body)),
            salt=salt,
            max_cost=most_cost(terms, limits.prompt_bound, limits.max_tokens),
            prepaid=prompt_cost(terms, limits.prompt_bound) if prepay else 0,
            limits=limits,
        )
        authorised = await self._authorise(draft)
        agreement = Agreement(self._record.lease_id, terms, self._record.fingerprint, authorised.context, draft.limits)
        answer = Answer(agreement, ShownText(self._counter, question.stop) if self._counter else None)
        seq, unseen = authorised.context.seq, self._unseen_tokens
        self._running.add(seq)
        try:
            async with aclosing(self._exchange(body, authorised, AnswerStream(answer))) as events:
                async for event in events:
                    yield event
        except ReceiptRejected:
            unseen = 0
            raise
        finally:
            self._running.discard(seq)
            self._leave(answer, unseen)
            self._advanced()

    async def _authorise(self, draft: Draft) -> Authorised:
        try:
            return await self._book.authorise(draft)
        except LeaseExhausted:
            await self._finish_tasks()
            await self.resolve()
            return await self._book.authorise(draft)

    async def _exchange(self, body: bytes, authorised: Authorised, stream: AnswerStream) -> AsyncGenerator[Event, None]:
        voucher: Signed[Voucher] | None = None
        final: Signed[Receipt] | None = None
        headers = paid_headers(authorised.voucher, authorised.context)
        try:
            async with self._http.stream("POST", PATH, content=body, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    await self._refused(response, authorised.context.seq)
                self._store.admitted(self._record.lease_id, authorised.context.seq)
                async with aclosing(items(response, stream)) as found:
                    async for item in found:
                        if isinstance(item, Signed):
                            voucher = await self._accept(stream, item)
                            final = item if item.message.final else None
                            yield Checked(item, voucher)
                        elif isinstance(item, Exposure):
                            self._note_cap(item)
                            if voucher is not None:
                                self._pay_in_background(voucher)
                        else:
                            yield Text(item)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            await self._book.refused(authorised.context.seq)
            raise self._broken(error) from error
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        if final is None or voucher is None:
            raise ProviderFailed("the answer ended without its final receipt")
        if stream.failure is not None:
            raise ProviderFailed(f"the provider broke off: {stream.failure}")
        yield End(stream.finish_reason, final, voucher, final.message.units_out)

    async def _accept(self, stream: AnswerStream, signed: Signed[Receipt]) -> Signed[Voucher]:
        """Checks a receipt of the stream, signs for it, and sends the voucher."""
        elapsed_ms = stream.elapsed_ms()
        try:
            await self._keys.check(signed)
        except ChainError as error:
            raise ProviderFailed(f"a receipt is by a new key, and the registry cannot be asked: {error}") from error
        stream.answer.check(signed.message, elapsed_ms=elapsed_ms, now=self._now())
        voucher = await self._book.pay(signed)
        self._pay_in_background(voucher)
        self._advanced()
        return voucher

    async def _make_room(self, progress: asyncio.Event, pauses: Iterator[float], refusal: ProviderRefused) -> None:
        """Waits for other questions of this lease, which may have run ahead of their receipts; then for a while."""
        if self._running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(progress.wait(), READ_S)
            return
        pause_s = next(pauses, None)
        if pause_s is None:
            raise refusal
        await self._finish_tasks()
        await asyncio.sleep(pause_s)

    def _is_prepayment_due(self, question: Question, refusal: ProviderRefused) -> bool:
        """Only a prompt that by our own count costs more than the advertised credit cap is paid in advance."""
        try:
            cap = max(self._credit_cap, int(str(refusal.details["credit_cap"])))
        except (KeyError, ValueError):
            raise PrepayRejected("the provider asks for prepayment without naming its credit cap") from refusal
        if self._counter is None:
            raise PrepayRejected("a prompt is paid in advance only where a tokenizer counts it") from refusal
        return prompt_cost(self._record.terms, self._counter.count(question.messages)) > cap

    def _advanced(self) -> None:
        """Something was paid or has ended."""
        self._progress.set()
        self._progress = asyncio.Event()

    def _leave(self, answer: Answer, unseen: int) -> None:
        """After a stream, however it ended: what is still open is brought to an end beside other work."""
        lease_id, seq = self._record.lease_id, answer.agreement.request.seq
        if self._store.state(lease_id, seq) is not RequestState.ADMITTED:
            return
        if answer.is_false:
            self._store.dispute(lease_id, seq)
            return
        request = next(found for found in self._store.unfinished(lease_id) if found.context.seq == seq)
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
            self._advanced()

    async def _resolve(self, request: OpenRequest, answer: Answer, unseen: int) -> bool:
        """Whether the request's end is known now."""
        lease_id, seq = self._record.lease_id, request.context.seq
        is_past = self._now() > request.context.sent_at + MAX_CLOCK_SKEW_S
        if request.voucher is None:
            await self._book.refused(seq)
            return True
        if request.state is RequestState.SIGNED and not is_past:
            return False  # the provider may not know it yet, and would start it now
        outcome = await repeat(self._http, PATH, request, request.voucher)
        if isinstance(outcome, Signed):
            return await self._pay_stored(outcome, answer, unseen)
        if outcome is Repeated.DENIED and is_past:
            await self._book.refused(seq)
            return True
        if outcome is Repeated.ANSWERED_ANEW:
            _log.warning("request %d of lease 0x%s was answered a second time: disputed", seq, lease_id.hex())
            self._store.dispute(lease_id, seq)
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
            _log.warning("request %d of lease 0x%s: %s", request.seq, self._record.lease_id.hex(), error)
            self._store.dispute(self._record.lease_id, request.seq)
            return True
        self._pay_in_background(await self._book.pay(signed, owed))
        return True

    async def _finish_tasks(self) -> None:
        while self._tasks:  # a repeat that ends starts a payment
            await asyncio.wait(self._tasks)

    async def _refused(self, response: httpx.Response, seq: int) -> None:
        content = await whole(response, MAX_REFUSAL_BYTES)
        try:
            error = json.loads(content)["error"]
            code, message, details = str(error["code"]), str(error["message"]), error.get("details")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            code, message, details = f"http_{response.status_code}", "no reason given", None
        try:
            refusal = parse_response_headers(response.headers.items()).refusal
        except InvalidHeader:
            refusal = None
        if refusal is not None or response.status_code in (400, 404):
            await self._book.refused(seq)
        raise ProviderRefused(
            response.status_code, refusal or code, message, details if isinstance(details, dict) else None
        )

    def _note_cap(self, exposure: Exposure) -> None:
        if exposure.lease_id == self._record.lease_id:
            self._credit_cap = max(self._credit_cap, exposure.credit_cap)

    def _pay_in_background(self, voucher: Signed[Voucher]) -> None:
        self._start(self._send_voucher(voucher))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("lease 0x%s: %s", self._record.lease_id.hex(), error)

    async def _send_voucher(self, voucher: Signed[Voucher]) -> None:
        """Best effort: one that does not arrive is made up for by the next voucher, which is never lower."""
        headers = {VERSION_HEADER: VERSION, VOUCHER_HEADER: voucher.encode()}
        try:
            await self._http.post(f"/v1/leases/0x{self._record.lease_id.hex()}/vouchers", headers=headers)
        except httpx.HTTPError:
            return

    def _broken(self, error: Exception) -> ConsumerError:
        reason = wrong_key(error) or type(error).__name__
        return ProviderFailed(f"the connection to {self._record.endpoint} broke: {reason}")

    def _agreement(self, request: OpenRequest) -> Agreement:
        record = self._record
        return Agreement(record.lease_id, record.terms, record.fingerprint, request.context, request.limits)

    def _limits(self, question: Question) -> Limits:
        counted = self._counter.count(question.messages) if self._counter else None
        bound = counted if counted is not None else prompt_bound(question.messages)
        return Limits(counted, bound, question.max_tokens)

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
