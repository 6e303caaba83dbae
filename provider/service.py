"""Serving paid requests: admission, generation, metering, receipts, and the pause while a voucher is due.

A request runs in a task of its own, so that it ends in exactly one final receipt whatever happens to its client.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from protocol.exceptions import InvalidSignature
from protocol.headers import SEQ_WINDOW, Exposure, RefusalCode, RequestContext, Signed
from protocol.ids import canonical_body, request_hash
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt, Voucher
from provider.backend import Backend, Backends, Done, Generation, GenerationRequest, Hold, Prompt, Token
from provider.chat import ChatRequest
from provider.engine.errors import EngineError, GenerationError
from provider.exceptions import LedgerError, Refusal
from provider.exposure import CreditPolicy, LeaseExposure, OwnerExposure
from provider.leases import Lease, LeaseCache
from provider.ledger import AdmittedRequest, Ledger
from provider.limits import TokenBucket
from provider.metering import Meter, closing_receipt, most_output, prompt_cost
from provider.offers import Offer, OfferBook
from provider.upkeep import place_of

_log = logging.getLogger(__name__)
T = TypeVar("T")

ROUTE = "POST /v1/chat/completions"


@dataclass(frozen=True)
class ServiceSettings:
    """How the worker serves. Times in seconds; `chunk_tokens` tokens at most pass between two receipts.

    Serving ends `closing_margin_s` before a lease closes: what is owed then must still be paid and settled.
    """

    credit: CreditPolicy
    chunk_tokens: int = 32
    chunk_s: float = 10.0
    voucher_timeout_s: float = 30.0
    closing_margin_s: int = 600
    vouchers_per_s: float = 20.0
    voucher_burst: int = 100


@dataclass(frozen=True)
class Piece:
    """A generated token on its way out; `logprob` quantised."""

    token: int
    logprob: int
    text: str


@dataclass(frozen=True)
class ReceiptIssued:
    """A receipt, already in the ledger."""

    signed: Signed[Receipt]


@dataclass(frozen=True)
class Paused:
    """The answer waits for a voucher."""

    exposure: Exposure


@dataclass(frozen=True)
class Finished:
    """The end of an answer, after its final receipt. `failure` says why it is incomplete."""

    finish_reason: str
    text: str
    failure: Refusal | None = None


Event = Piece | ReceiptIssued | Paused | Finished


class AlreadyServed(Exception):  # noqa: N818 - it is what happened
    """The request was answered before; only its receipt is given out again."""

    def __init__(self, signed: Signed[Receipt]) -> None:
        super().__init__("already served")
        self.signed = signed


class Clock(Protocol):
    """The market's time, and the newest head's, in Unix seconds."""

    def now(self) -> int: ...

    def block_time(self) -> int: ...


class InferenceService:
    """Everything between the HTTP surface and the engine."""

    def __init__(
        self,
        *,
        domain: Domain,
        provider: int,
        signer: Signer,
        ledger: Ledger,
        leases: LeaseCache,
        offers: OfferBook,
        backends: Backends,
        clock: Clock,
        settings: ServiceSettings,
    ) -> None:
        self.domain = domain
        self.provider = provider
        self.ledger = ledger
        self.leases = leases
        self.offers = offers
        self.backends = backends
        self.clock = clock
        self.settings = settings
        self._signer = signer
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._exposures: dict[bytes, LeaseExposure] = {}
        self._owners: dict[str, OwnerExposure] = {}
        self._voucher_rates: dict[bytes, TokenBucket] = {}
        self._in_work: set[tuple[bytes, int]] = set()
        self._lacks_finals = False
        self._admission: dict[str, asyncio.Lock] = {}
        self._running: dict[tuple[bytes, int], ActiveRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life

    async def recover(self) -> int:
        """Gives every request that a crash or a failing disk interrupted its final receipt; returns how many."""
        finished = 0
        for request in await self.write(self.ledger.unfinished):
            key = (request.lease_id, request.seq)
            if key in self._in_work or await self.write(self.ledger.final_receipt, *key) is not None:
                continue
            last = await self.write(self.ledger.last_receipt, *key)
            fingerprint = last.message.model_fingerprint if last else await self._fingerprint_of(request.lease_id)
            receipt = closing_receipt(
                last.message if last else None, *key, request.request_hash, fingerprint, self.clock.now()
            )
            await self.sign_receipt(receipt)
            finished += 1
        return finished

    async def look_after_running(self) -> None:
        """To be called now and then: ends streams whose lease closes soon, and signs final receipts that failed.

        Raises Refusal while the chain cannot be read, LedgerError.
        """
        if self._lacks_finals:
            self._lacks_finals = False
            try:
                await self.recover()
            except BaseException:
                self._lacks_finals = True
                raise
        for lease_id in {active.lease_id for active in self._running.values()}:
            lease = await self.leases.get(lease_id)
            if lease is not None:
                (await self.exposure(lease)).owner.notify()

    async def stop(self) -> None:
        """Ends all running requests with their final receipts."""
        for active in list(self._running.values()):
            active.abandon()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._writer.shutdown(wait=True)

    # --- what the HTTP surface calls

    async def submit(
        self, signed: Signed[Voucher], context: RequestContext, body: bytes, chat: ChatRequest
    ) -> "ActiveRequest":
        """Admits a request and starts it. Raises Refusal, or AlreadyServed for one that has its final receipt."""
        if request_hash(context.salt, canonical_body(ROUTE, body)) != context.request_hash:
            raise Refusal(RefusalCode.REQUEST_HASH, "the request hash is not that of this body")
        lease = await self._lease_for(signed)
        await self._refuse_repeat(lease.lease_id, context.seq)
        now = self.clock.now()
        if not context.is_timely(now):
            raise Refusal(RefusalCode.CLOCK, "the request's time is off by too much", now=now)
        lease.check_open(now, self.settings.closing_margin_s)
        offer = self._offer_of(lease, chat)
        caps = offer.document["caps"]
        if len(body) > caps["max_body_bytes"]:
            raise Refusal(RefusalCode.CAPS, f"the terms allow bodies of {caps['max_body_bytes']} bytes")
        hold = await self._acquire(offer)
        try:
            prompt = Prompt(messages=[message.plain() for message in chat.messages])
            prompt_tokens = await self._count(hold.backend, prompt)
            max_tokens = self._max_tokens(hold.backend, offer, chat, prompt_tokens, context.max_cost)
            request = GenerationRequest(
                prompt=prompt,
                max_tokens=max_tokens,
                temperature=chat.temperature,
                top_p=chat.top_p,
                seed=chat.seed,
                stop=chat.stops(),
                cache_key=lease.lease_id.hex(),
            )
            async with self._admission.setdefault(lease.owner, asyncio.Lock()):
                active = await self._admit(signed, context, lease, offer, hold.backend, prompt_tokens)
        except BaseException:
            hold.release()
            raise
        task = asyncio.create_task(active.run(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: hold.release())
        return active

    async def accept_voucher(self, signed: Signed[Voucher]) -> LeaseExposure:
        """Takes a voucher outside of a request. Raises Refusal."""
        lease = await self._lease_for(signed)
        if self.clock.now() >= lease.closes_at or lease.is_released:
            raise Refusal(RefusalCode.LEASE_ENDED, "the lease is closed: vouchers can not be settled any more")
        cumulative = signed.message.cumulative
        if cumulative > lease.deposit:
            raise Refusal(RefusalCode.OVERDRAWN, "the voucher is above the lease's deposit", deposit=str(lease.deposit))
        exposure = await self.exposure(lease)
        if cumulative < exposure.cumulative:
            raise Refusal(
                "stale_voucher",
                "a higher voucher of this lease is here already",
                status=409,
                cumulative=str(exposure.cumulative),
            )
        if cumulative > exposure.cumulative:
            self._check_rate(lease.lease_id)
            await self.write(self.ledger.record_voucher, signed, lease.owner, self.clock.now())
            exposure.pay(cumulative)
        return exposure

    async def write(self, call: Callable[..., T], *arguments: object) -> T:
        """Runs a ledger call on the ledger's thread. Raises LedgerError as Refusal 503 to a client."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, lambda: call(*arguments))

    async def sign_receipt(self, receipt: Receipt) -> Signed[Receipt]:
        """Signs a receipt and commits it; only then may it leave."""
        signed = Signed(receipt, self._signer.sign(self.domain, receipt))
        await self.write(self.ledger.record_receipt, signed)
        return signed

    def ended(self, active: "ActiveRequest", *, has_final: bool) -> None:
        """Called by a request at its end; one without its final receipt gets it later."""
        self._running.pop((active.lease_id, active.seq), None)
        self._in_work.discard((active.lease_id, active.seq))
        self._lacks_finals |= not has_final

    async def exposure(self, lease: Lease) -> LeaseExposure:
        """The lease's live figures."""
        known = self._exposures.get(lease.lease_id) or await self._load(lease)
        known.deposit = lease.deposit
        known.stop_at = lease.closes_at - self.settings.closing_margin_s
        known.credit_cap = self.settings.credit.cap(await self.write(self.ledger.settled_with, lease.owner))
        return known

    async def _load(self, lease: Lease) -> LeaseExposure:
        if lease.owner not in self._owners:
            unpaid = await self.write(self.ledger.unpaid_of, lease.owner)
            self._owners.setdefault(lease.owner, OwnerExposure(unpaid))
        account = await self.write(self.ledger.account, lease.lease_id)
        if known := self._exposures.get(lease.lease_id):
            return known
        owner = self._owners[lease.owner]
        owner.unloaded.pop(lease.lease_id, None)
        loaded = LeaseExposure(lease.deposit, 0, account.served, account.cumulative, owner=owner)
        self._exposures[lease.lease_id] = loaded
        return loaded

    # --- admission

    async def _lease_for(self, signed: Signed[Voucher]) -> Lease:
        """The voucher's lease; the chain is not asked about what no key can have signed."""
        try:
            signer = signed.recover(self.domain)
        except InvalidSignature as error:
            raise Refusal(RefusalCode.BAD_SIGNATURE, "the voucher's signature is not one") from error
        lease = await self.leases.get(signed.message.lease_id)
        if lease is None:
            raise Refusal(
                RefusalCode.UNKNOWN_LEASE, "the chain does not know this lease, or not with enough confirmations yet"
            )
        if lease.provider != self.provider:
            raise Refusal(
                RefusalCode.UNKNOWN_LEASE, f"the lease is with provider {lease.provider}, this is {self.provider}"
            )
        if signer != lease.signer:
            raise Refusal(RefusalCode.BAD_SIGNATURE, "the voucher is not signed by the lease's session key")
        return lease

    def _check_rate(self, lease_id: bytes) -> None:
        """Raises Refusal when a lease's vouchers come faster than any answer can be paid."""
        settings = self.settings
        bucket = self._voucher_rates.get(lease_id)
        if bucket is None:
            bucket = self._voucher_rates[lease_id] = TokenBucket(settings.vouchers_per_s, settings.voucher_burst)
        if not bucket.take():
            raise Refusal(RefusalCode.BUSY, "too many vouchers of this lease: send fewer, higher ones", status=429)

    async def _refuse_repeat(self, lease_id: bytes, seq: int) -> None:
        stored = await self.write(self.ledger.final_receipt, lease_id, seq)
        if stored is not None:
            raise AlreadyServed(stored)
        if await self.write(self.ledger.request, lease_id, seq) is not None:
            raise Refusal(RefusalCode.BUSY, f"request {seq} is being served", status=409)
        account = await self.write(self.ledger.account, lease_id)
        if seq <= account.highest_seq - SEQ_WINDOW:
            raise Refusal(RefusalCode.SEQ_TOO_OLD, f"seq must be above {account.highest_seq - SEQ_WINDOW}")

    def _offer_of(self, lease: Lease, chat: ChatRequest) -> Offer:
        offer = self.offers.find(lease.offer_id, lease.version)
        if offer is None:
            raise Refusal(RefusalCode.TERMS, f"offer {lease.offer_id} version {lease.version} is not served here")
        if chat.model != offer.model_name:
            raise Refusal(
                "model_not_found", f"this lease is for the model {offer.model_name}", status=404, param="model"
            )
        return offer

    async def _acquire(self, offer: Offer) -> Hold:
        try:
            return await self.backends.acquire(offer)
        except EngineError as error:
            raise _as_refusal(error) from error

    async def _count(self, backend: Backend, prompt: Prompt) -> int:
        try:
            return await backend.count(prompt)
        except EngineError as error:
            raise _as_refusal(error) from error

    def _max_tokens(self, backend: Backend, offer: Offer, chat: ChatRequest, prompt_tokens: int, max_cost: int) -> int:
        caps: dict[str, int] = offer.document["caps"]
        room = backend.context - prompt_tokens
        if prompt_tokens > caps["max_units_in"] or room < 1:
            allowed = min(caps["max_units_in"], backend.context - 1)
            raise Refusal(
                RefusalCode.CAPS, f"the prompt has {prompt_tokens} tokens, {allowed} are allowed", param="messages"
            )
        affordable = most_output(offer.terms, prompt_tokens, max_cost)
        if affordable < 1:
            raise Refusal(
                RefusalCode.OVERDRAWN,
                f"a prompt of {prompt_tokens} tokens and one token of answer cost more than max_cost",
                prompt_tokens=prompt_tokens,
                prompt_cost=str(prompt_cost(offer.terms, prompt_tokens)),
            )
        return min(chat.limit() or caps["max_units_out"], caps["max_units_out"], room, affordable)

    async def _admit(
        self,
        signed: Signed[Voucher],
        context: RequestContext,
        lease: Lease,
        offer: Offer,
        backend: Backend,
        prompt_tokens: int,
    ) -> "ActiveRequest":
        exposure = await self.exposure(lease)
        if len(exposure.running) >= offer.document["caps"]["max_concurrent"]:
            raise Refusal(
                RefusalCode.BUSY, f"the lease already has {len(exposure.running)} requests running", status=429
            )
        await self._refuse_repeat(lease.lease_id, context.seq)
        cumulative = max(exposure.cumulative, signed.message.cumulative)
        exposure.check_admission(context.max_cost, prompt_cost(offer.terms, prompt_tokens), cumulative)
        request = AdmittedRequest(lease.lease_id, context.seq, context.request_hash, context.max_cost, context.sent_at)
        key = (lease.lease_id, context.seq)
        self._in_work.add(key)
        try:
            await self.write(self.ledger.admit, request, signed, lease.owner, self.clock.now())
        except BaseException as error:
            # it may be in the ledger nevertheless
            self._in_work.discard(key)
            self._lacks_finals = True
            if isinstance(error, LedgerError):
                raise Refusal("ledger_unavailable", str(error), status=503) from error
            raise
        exposure.pay(signed.message.cumulative)
        meter = Meter(
            offer.terms, lease.lease_id, context.seq, context.request_hash, offer.fingerprint, context.max_cost
        )
        active = ActiveRequest(self, backend, exposure, meter, prompt_tokens)
        self._running[lease.lease_id, context.seq] = active
        return active

    async def _fingerprint_of(self, lease_id: bytes) -> bytes:
        lease = await self.leases.get(lease_id)
        offer = self.offers.find(lease.offer_id, lease.version) if lease else None
        return offer.fingerprint if offer else bytes(32)


class ActiveRequest:
    """One admitted request: its task produces events, the HTTP surface consumes them."""

    def __init__(
        self,
        service: InferenceService,
        backend: Backend,
        exposure: LeaseExposure,
        meter: Meter,
        prompt_tokens: int,
    ) -> None:
        self._service = service
        self._backend = backend
        self._exposure = exposure
        self._open = exposure.begin(meter.seq, meter.max_cost, prompt_cost(meter.terms, prompt_tokens))
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._arrived = time.monotonic()
        self._paused_s = 0.0
        self._last_receipt_at = self._arrived
        self._last_receipt_units = 0
        self._last_receipt_cost = 0
        self._abandoned = asyncio.Event()
        self._stopped_by = Refusal(RefusalCode.UNPAID, "no sufficient voucher arrived in time")
        self.meter = meter
        self.prompt_tokens = prompt_tokens
        self.lease_id = meter.lease_id
        self.seq = meter.seq

    def abandon(self) -> None:
        """The client went away, or the worker stops: no more tokens."""
        self._abandoned.set()

    async def events(self) -> AsyncIterator[Event]:
        """Everything that goes to the client, ending with `Finished`; leaving early abandons the request."""
        try:
            while True:
                event = await self._events.get()
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.abandon()

    async def run(self, request: GenerationRequest) -> None:
        """Generates until the end, and signs the final receipt in any case."""
        reason, text, failure = "cancelled", "", None
        has_final = False
        try:
            done = await self._generate(request)
            reason, text = done.finish_reason, done.text
            if reason == "cancelled" and not self._abandoned.is_set():
                failure = self._stopped_by
        except EngineError as error:
            failure = _as_refusal(error)
        except LedgerError as error:
            failure = Refusal("ledger_unavailable", str(error), status=503)
        except Exception as error:  # noqa: BLE001
            failure = _unexpected(error)
        try:
            await self._issue(final=True)
            has_final = True
        except LedgerError as error:
            failure = Refusal("ledger_unavailable", str(error), status=503)
        except Exception as error:  # noqa: BLE001
            failure = _unexpected(error)
        finally:
            self._exposure.finish(self.seq, self.meter.cost)
            self._service.ended(self, has_final=has_final)
            self._events.put_nowait(Finished(reason, text, failure))

    async def _generate(self, request: GenerationRequest) -> Done:
        generation = await self._backend.generate(request)
        watcher = asyncio.create_task(self._cancel_when_abandoned(generation))
        try:
            return await self._consume(generation)
        except BaseException:
            with contextlib.suppress(EngineError):
                await generation.cancel()
            raise
        finally:
            watcher.cancel()

    async def _consume(self, generation: Generation) -> Done:
        is_paying = True
        async for event in generation:
            if isinstance(event, Done):
                if generation.prompt_tokens is not None:
                    self._start(generation)
                return event if is_paying else dataclasses.replace(event, finish_reason="cancelled", text="")
            if not is_paying or self._abandoned.is_set():
                continue
            self._start(generation)
            if not await self._may_go_on(generation):
                is_paying = False
                await generation.cancel()
                continue
            await self._count(event)
        raise GenerationError("engine_failed", "the engine ended the answer without a word")

    def _start(self, generation: Generation) -> None:
        if self.meter.units_in + self.meter.units_cached == 0:
            self.meter.start(generation.prompt_tokens or 0, generation.cached_tokens or 0)
            self._open.cost, self._open.gross = self.meter.cost, self.meter.gross

    async def _may_go_on(self, generation: Generation) -> bool:
        """Waits, with the engine paused, until one more token is within the credit cap.

        False when nobody pays, or when the lease closes soon.
        """
        paused_at: float | None = None
        deadline = time.monotonic() + self._service.settings.voucher_timeout_s
        while True:
            changed = self._exposure.changed
            if self._service.clock.now() >= self._exposure.stop_at:
                self._stopped_by = Refusal(RefusalCode.LEASE_ENDED, "the lease closes soon: the answer ends here")
                return False
            if self._exposure.may_serve(self._open, self.meter.gross_with_next()):
                if paused_at is not None:
                    self._paused_s += time.monotonic() - paused_at
                    await generation.resume()
                return True
            if paused_at is None:
                paused_at = time.monotonic()
                await generation.pause()
                if self.meter.cost > self._last_receipt_cost:
                    await self._issue(final=False)
                self._events.put_nowait(Paused(self._exposure.as_header(self.lease_id, paused=True)))
            if not await self._wait(changed, deadline - time.monotonic()):
                self._paused_s += time.monotonic() - paused_at
                return False

    async def _wait(self, changed: asyncio.Event, timeout_s: float) -> bool:
        waits = {asyncio.create_task(changed.wait()), asyncio.create_task(self._abandoned.wait())}
        try:
            await asyncio.wait(waits, timeout=max(timeout_s, 0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return changed.is_set() and not self._abandoned.is_set()

    async def _count(self, token: Token) -> None:
        logprob = self.meter.add(token.token, token.logprob, self._elapsed_ms())
        self._open.cost, self._open.gross = self.meter.cost, self.meter.gross
        self._events.put_nowait(Piece(token.token, logprob, token.text))
        settings = self._service.settings
        since = self.meter.units_out - self._last_receipt_units
        if since >= settings.chunk_tokens or time.monotonic() - self._last_receipt_at >= settings.chunk_s:
            await self._issue(final=False)

    async def _issue(self, *, final: bool) -> None:
        receipt = self.meter.receipt(final=final, duration_ms=self._elapsed_ms(), ended_at=self._service.clock.now())
        signed = await self._service.sign_receipt(receipt)
        self._last_receipt_at = time.monotonic()
        self._last_receipt_units = self.meter.units_out
        self._last_receipt_cost = self.meter.cost
        self._events.put_nowait(ReceiptIssued(signed))

    async def _cancel_when_abandoned(self, generation: Generation) -> None:
        await self._abandoned.wait()
        with contextlib.suppress(EngineError):
            await generation.cancel()

    def _elapsed_ms(self) -> int:
        """Since arrival, without the time spent waiting for vouchers."""
        return round((time.monotonic() - self._arrived - self._paused_s) * 1000)


def _unexpected(error: Exception) -> Refusal:
    """For the client and the log: neither learns the error's text, which may hold what another client sent."""
    _log.error("a request failed unexpectedly: %s", place_of(error))
    return Refusal("internal_error", "the provider failed; the receipt says what is owed", status=500)


def _as_refusal(error: EngineError) -> Refusal:
    if isinstance(error, GenerationError):
        status = {"bad_messages": 400, "bad_request": 400, "overloaded": 503}.get(error.code, 502)
        return Refusal(error.code, str(error), status=status)
    return Refusal(RefusalCode.BUSY, f"{error}; try again")
