"""A request that was admitted: it runs in a task of its own and ends in exactly one final receipt, whatever happens."""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol

from protocol.headers import RefusalCode, Signed
from protocol.typed_data import Receipt
from provider.backend import Backend
from provider.engine.errors import EngineError, GenerationError
from provider.events import Event, Finished, ReceiptIssued
from provider.exceptions import LedgerError, Refusal
from provider.exposure import LeaseExposure
from provider.metering import Meter, prompt_cost
from provider.upkeep import place_of

_log = logging.getLogger(__name__)
_STATUS = {"bad_messages": 400, "bad_request": 400, "bad_schema": 400, "prompt_too_long": 413, "overloaded": 503}


class Clock(Protocol):
    """The market's time, and the newest head's, in Unix seconds."""

    def now(self) -> int: ...

    def block_time(self) -> int: ...


class Host(Protocol):
    """What a running request needs of its service."""

    clock: Clock

    async def sign_receipt(self, receipt: Receipt) -> Signed[Receipt]:
        """Signs a receipt and commits it. Raises LedgerError."""

    def ended(self, active: "ActiveRequest", outcome: str, *, has_final: bool) -> None:
        """Called once, at the request's end."""


class ActiveRequest(ABC):
    """One admitted request: its task produces events, the HTTP surface consumes them."""

    def __init__(
        self, host: Host, backend: Backend, exposure: LeaseExposure, meter: Meter, model: str, prompt_tokens: int
    ) -> None:
        self.meter = meter
        self.model = model
        self.lease_id = meter.lease_id
        self.seq = meter.seq
        self._host = host
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

    @abstractmethod
    async def _work(self) -> str:
        """Does what was asked; returns the outcome. Raises EngineError, LedgerError, Refusal."""

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

    async def run(self) -> None:
        """Works until the end, and signs the final receipt in any case."""
        outcome, failure = "", None
        has_final = False
        try:
            outcome = await self._work()
        except Refusal as refusal:
            failure = refusal
        except EngineError as error:
            failure = as_refusal(error)
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
            self._host.ended(self, str(failure.code) if failure else outcome, has_final=has_final)
            self._events.put_nowait(Finished(failure))

    def _note(self) -> None:
        """The meter went on: so did what is at risk."""
        self._open.cost, self._open.gross = self.meter.cost, self.meter.gross

    async def _issue(self, *, final: bool) -> None:
        receipt = self.meter.receipt(final=final, duration_ms=self._elapsed_ms(), ended_at=self._host.clock.now())
        signed = await self._host.sign_receipt(receipt)
        self._last_receipt_at = time.monotonic()
        self._last_receipt_units = self.meter.units_out
        self._last_receipt_cost = self.meter.cost
        self._events.put_nowait(ReceiptIssued(signed))

    def _elapsed_ms(self) -> int:
        """Since arrival, without the time spent waiting for vouchers."""
        return round((time.monotonic() - self._arrived - self._paused_s) * 1000)


def _unexpected(error: Exception) -> Refusal:
    """For the client and the log: neither learns the error's text, which may hold what another client sent."""
    _log.error("a request failed unexpectedly: %s", place_of(error))
    return Refusal("internal_error", "the provider failed; the receipt says what is owed", status=500)


def as_refusal(error: EngineError) -> Refusal:
    """What a client learns of an engine's failure."""
    if isinstance(error, GenerationError):
        return Refusal(error.code, str(error), status=_STATUS.get(error.code, 502))
    return Refusal(RefusalCode.BUSY, f"{error}; try again")
