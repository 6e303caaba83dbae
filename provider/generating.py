"""A running generation: tokens are counted, receipts signed, and the engine pauses while a voucher is due."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass

from protocol.headers import RefusalCode
from provider.active_request import ActiveRequest, Host
from provider.backend import Backend, Done, Generation, GenerationRequest, Token
from provider.engine.errors import EngineError, GenerationError
from provider.events import ChoiceEnded, Paused, Piece
from provider.exceptions import Refusal
from provider.exposure import LeaseExposure
from provider.metering import Meter


@dataclass(frozen=True)
class Pace:
    """How often receipts are signed (by tokens or by seconds), and how long an answer waits for a voucher at a time.

    All waits of a request together last `max_paused_s` at most: its place in the engine is kept meanwhile.
    """

    chunk_tokens: int
    chunk_s: float
    voucher_timeout_s: float
    max_paused_s: float


class ActiveGeneration(ActiveRequest):
    """Generates the choices of one request, one after another; the prompt is billed once."""

    def __init__(
        self,
        host: Host,
        backend: Backend,
        exposure: LeaseExposure,
        meter: Meter,
        model: str,
        prompt_tokens: int,
        requests: Iterable[GenerationRequest],
        pace: Pace,
    ) -> None:
        super().__init__(host, backend, exposure, meter, model, prompt_tokens)
        self._requests = list(requests)
        self._pace = pace
        self._choice = 0
        self._stopped_by = Refusal(RefusalCode.UNPAID, "no sufficient voucher arrived in time")

    async def _work(self) -> str:
        reason = "cancelled"
        for number, request in enumerate(self._requests):
            self._choice = number
            done = await self._generate(request)
            reason = done.finish_reason
            if reason == "cancelled":
                if not self._abandoned.is_set():
                    raise self._stopped_by
                break
            self._events.put_nowait(ChoiceEnded(self._choice, reason, done.text))
        return reason

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
            self._note()

    async def _may_go_on(self, generation: Generation) -> bool:
        """Waits, with the engine paused, until one more token is within the credit cap.

        False when nobody pays, or when the lease closes soon.
        """
        paused_at: float | None = None
        deadline = time.monotonic() + min(self._pace.voucher_timeout_s, self._pace.max_paused_s - self._paused_s)
        while True:
            changed = self._exposure.changed
            if self._host.clock.now() >= self._exposure.stop_at:
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
        self._note()
        self._events.put_nowait(Piece(self._choice, token.token, logprob, token.text, token.piece, token.top))
        since = self.meter.units_out - self._last_receipt_units
        if since >= self._pace.chunk_tokens or time.monotonic() - self._last_receipt_at >= self._pace.chunk_s:
            await self._issue(final=False)

    async def _cancel_when_abandoned(self, generation: Generation) -> None:
        await self._abandoned.wait()
        with contextlib.suppress(EngineError):
            await generation.cancel()
