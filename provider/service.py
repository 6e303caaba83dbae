"""Serving paid requests: who may ask, what is admitted, which vouchers count.

What was admitted runs by itself (`active_request`) and ends in exactly one final receipt.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakValueDictionary

from protocol.exceptions import InvalidSignature
from protocol.headers import SEQ_WINDOW, RefusalCode, RequestContext, Signed
from protocol.ids import canonical_body, request_hash
from protocol.sandboxes import SandboxTier
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt, Voucher
from provider.active_request import ActiveRequest, Clock, as_refusal
from provider.admission import answer_limit, check_embedding, check_fits, check_tools
from provider.backend import Backend, Backends, Hold, Prompt
from provider.embedding import ActiveEmbedding
from provider.engine.errors import EngineError
from provider.exceptions import LedgerError, Refusal
from provider.exposure import CreditPolicy, LeaseExposure, OwnerExposure
from provider.generating import ActiveGeneration, Pace
from provider.isolation import check_sandbox
from provider.leases import Lease, LeaseCache
from provider.ledger import AdmittedRequest, Ledger
from provider.limits import RequestRates, TokenBuckets
from provider.metering import Meter, closing_receipt, prompt_cost
from provider.offers import Offer, OfferBook
from provider.seams import ContentPolicy, Gate, Metrics, Silent
from provider.work import Embed, Work

T = TypeVar("T")


@dataclass(frozen=True)
class ServiceSettings:
    """How the worker serves. Times in seconds; `chunk_tokens` tokens at most pass between two receipts.

    Serving ends `closing_margin_s` before a lease closes: what is owed then must still be paid and settled.
    """

    credit: CreditPolicy
    chunk_tokens: int = 32
    chunk_s: float = 10.0
    voucher_timeout_s: float = 30.0
    max_paused_s: float = 120.0
    closing_margin_s: int = 600
    vouchers_per_s: float = 20.0
    voucher_burst: int = 100


class AlreadyServed(Exception):  # noqa: N818 - it is what happened
    """The request was answered before; only its receipt is given out again."""

    def __init__(self, signed: Signed[Receipt]) -> None:
        super().__init__("already served")
        self.signed = signed


@dataclass(frozen=True)
class Caller:
    """A request whose signature, body and time are right, and its lease open; what it asks for is not read yet."""

    signed: Signed[Voucher]
    context: RequestContext
    lease: Lease
    offer: Offer
    body_bytes: int


@dataclass(frozen=True)
class _Plan:
    """What admission found out: how long the prompt is, and how the request will run."""

    prompt_tokens: int
    start: Callable[[LeaseExposure, Meter], ActiveRequest]


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
        sandbox: SandboxTier,
        gate: Gate | None = None,
        policy: ContentPolicy | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`sandbox` is what the engines run in.

        Without `gate` it is always open, without `policy` all content is served, without `metrics` nobody counts.
        """
        self.domain = domain
        self.provider = provider
        self.ledger = ledger
        self.leases = leases
        self.offers = offers
        self.backends = backends
        self.clock = clock
        self.settings = settings
        self.sandbox = sandbox
        self.metrics = metrics or Silent()
        self._gate = gate
        self._policy = policy
        self._signer = signer
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        # the ledger remembers what was served and paid, so these live only while somebody uses them
        self._exposures: WeakValueDictionary[bytes, LeaseExposure] = WeakValueDictionary()
        self._owners: WeakValueDictionary[str, OwnerExposure] = WeakValueDictionary()
        self._admission: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._rates = RequestRates()
        self._voucher_rates = TokenBuckets()
        self._in_work: set[tuple[bytes, int]] = set()
        self._lacks_finals = False
        self._without_final: set[ActiveRequest] = set()
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

    def running(self) -> int:
        """How many requests run now."""
        return len(self._tasks)

    async def look_after_running(self) -> None:
        """To be called now and then: ends streams whose lease closes soon, and signs final receipts that failed.

        Raises Refusal while the chain cannot be read, LedgerError.
        """
        if self._lacks_finals:
            self._lacks_finals = False
            ended, self._without_final = self._without_final, set()
            try:
                await self.recover()
            except BaseException:
                self._lacks_finals = True
                self._without_final |= ended
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

    async def identify(self, signed: Signed[Voucher], context: RequestContext, route: str, body: bytes) -> Caller:
        """Who asks, before anybody spends time on the body. Raises Refusal, AlreadyServed for a repeat."""
        if request_hash(context.salt, canonical_body(route, body)) != context.request_hash:
            raise Refusal(RefusalCode.REQUEST_HASH, "the request hash is not that of this body")
        lease = await self._lease_for(signed)
        await self._refuse_repeat(lease.lease_id, context.seq)
        now = self.clock.now()
        if not context.is_timely(now):
            raise Refusal(RefusalCode.CLOCK, "the request's time is off by too much", now=now)
        lease.check_open(now, self.settings.closing_margin_s)
        offer = self.offers.find(lease.offer_id, lease.version)
        if offer is None:
            raise Refusal(RefusalCode.TERMS, f"offer {lease.offer_id} version {lease.version} is not served here")
        check_sandbox(offer, self.sandbox)
        self._rates.take(lease.lease_id, lease.owner, offer.offer_id, offer.document["caps"]["requests_per_minute"])
        return Caller(signed, context, lease, offer, len(body))

    async def submit(self, caller: Caller, work: Work) -> ActiveRequest:
        """Admits a request and starts it. Raises Refusal, and then nothing is charged; AlreadyServed for a repeat."""
        check_fits(caller.offer, work, caller.body_bytes)
        if self._gate is not None:
            self._gate.check_open()
        self._check_content(work)
        hold = await self._acquire(caller.offer)
        try:
            plan = await self._plan(caller, work, hold.backend)
            async with self._admission.setdefault(caller.lease.owner, asyncio.Lock()):
                active = await self._admit(caller, plan)
        except BaseException:
            hold.release()
            raise
        self.metrics.request_started(active.model)
        task = asyncio.create_task(active.run())
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

    def ended(self, active: ActiveRequest, outcome: str, *, has_final: bool) -> None:
        """Called by a request at its end; one without its final receipt gets it later."""
        self._running.pop((active.lease_id, active.seq), None)
        self._in_work.discard((active.lease_id, active.seq))
        if not has_final:
            self._lacks_finals = True
            self._without_final.add(active)
        meter = active.meter
        self.metrics.request_ended(
            active.model, outcome, meter.ttft_ms, meter.duration_ms, meter.units_in, meter.units_cached, meter.units_out
        )

    async def exposure(self, lease: Lease) -> LeaseExposure:
        """The lease's live figures."""
        known = self._exposures.get(lease.lease_id) or await self._load(lease)
        known.deposit = lease.deposit
        known.stop_at = lease.closes_at - self.settings.closing_margin_s
        known.credit_cap = self.settings.credit.cap(await self.write(self.ledger.settled_with, lease.owner))
        return known

    async def _load(self, lease: Lease) -> LeaseExposure:
        owner = self._owners.get(lease.owner)
        if owner is None:
            unpaid = await self.write(self.ledger.unpaid_of, lease.owner)
            owner = self._owners.setdefault(lease.owner, OwnerExposure(unpaid))
        account = await self.write(self.ledger.account, lease.lease_id)
        if known := self._exposures.get(lease.lease_id):
            return known
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
        if not self._voucher_rates.get(lease_id, settings.vouchers_per_s, settings.voucher_burst).take():
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

    def _check_content(self, work: Work) -> None:
        """Raises Refusal for what the policy refuses, and for prompts that it could not read."""
        if self._policy is None:
            return
        prompts = work.prompts
        if any(prompt.tokens is not None for prompt in prompts):
            raise Refusal(
                "content_policy",
                "this provider checks what it serves and cannot read token ids: send the prompt as text",
                status=403,
                param="input" if isinstance(work, Embed) else "prompt",
            )
        self._policy.check(work.texts)

    async def _acquire(self, offer: Offer) -> Hold:
        try:
            return await self.backends.acquire(offer)
        except EngineError as error:
            raise as_refusal(error) from error

    async def _count(self, backend: Backend, prompt: Prompt) -> int:
        try:
            return await backend.count(prompt)
        except EngineError as error:
            raise as_refusal(error) from error

    async def _plan(self, caller: Caller, work: Work, backend: Backend) -> _Plan:
        offer, max_cost, deposit = caller.offer, caller.context.max_cost, caller.lease.deposit
        check_tools(backend, work)
        counts = [await self._count(backend, prompt) for prompt in work.prompts]
        total = sum(counts)
        if isinstance(work, Embed):
            check_embedding(backend, offer, work, counts, max_cost, deposit)
            return _Plan(
                total,
                lambda exposure, meter: ActiveEmbedding(
                    self, backend, exposure, meter, work.model, total, work.prompts
                ),
            )
        limit = answer_limit(backend, offer, work, total, max_cost, deposit)
        requests = list(work.requests(limit, caller.lease.lease_id.hex()))
        settings = self.settings
        pace = Pace(settings.chunk_tokens, settings.chunk_s, settings.voucher_timeout_s, settings.max_paused_s)
        return _Plan(
            total,
            lambda exposure, meter: ActiveGeneration(self, backend, exposure, meter, work.model, total, requests, pace),
        )

    async def _admit(self, caller: Caller, plan: _Plan) -> ActiveRequest:
        signed, context, lease, offer = caller.signed, caller.context, caller.lease, caller.offer
        exposure = await self.exposure(lease)
        if len(exposure.running) >= offer.document["caps"]["max_concurrent"]:
            raise Refusal(
                RefusalCode.BUSY, f"the lease already has {len(exposure.running)} requests running", status=429
            )
        await self._refuse_repeat(lease.lease_id, context.seq)
        cumulative = max(exposure.cumulative, signed.message.cumulative)
        exposure.check_admission(context.max_cost, prompt_cost(offer.terms, plan.prompt_tokens), cumulative)
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
        active = plan.start(exposure, meter)
        self._running[key] = active
        return active

    async def _fingerprint_of(self, lease_id: bytes) -> bytes:
        lease = await self.leases.get(lease_id)
        offer = self.offers.find(lease.offer_id, lease.version) if lease else None
        return offer.fingerprint if offer else bytes(32)
