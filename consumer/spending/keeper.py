"""One lease per offer, ready when a request comes: opened, topped up, closed and released within `[leases]`.

What a request needs while its lease has room is in memory. Openings and top-ups run to their end even if the request
that wanted them goes away, and requests that want the same wait for the same one. Amounts in token base units.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from consumer.endpoints import Endpoint
from consumer.exceptions import AccountTooLow, ConsumerError
from consumer.gateway.events import FailureClass, RouteFailed
from consumer.lease_client import LeaseClient
from consumer.offers import Offer
from consumer.records import LeaseRecord
from consumer.spending.desk import EXPIRY_MARGIN_S, LeaseDesk, Wish, serves
from consumer.spending.lease_notes import LeaseNote, LeaseNotes, Stage
from consumer.spending.settings import LeaseSettings
from consumer.store import Store
from consumer.tokenizers import Tokenizers
from protocol.chain.clock import MarketClock
from protocol.chain.exceptions import ChainError
from protocol.chain.views import Lease
from protocol.exceptions import ProtocolError
from protocol.signing import Signer

ROUND_S = 60.0
PAUSE_S = 30.0
"""How long a top-up that failed is not tried again while there is room."""

RELEASED_FOR_S = 7 * 86_400
"""How long after its expiry a released lease is looked at again: longer than any close delay."""

Place = tuple[int, int]
_log = logging.getLogger(__name__)


class Wanted(Protocol):
    """An offer and where it is served."""

    @property
    def offer(self) -> Offer: ...

    @property
    def endpoint(self) -> Endpoint: ...


@dataclass
class _Kept:
    """A lease in use. `has_counter` once its tokenizer was looked for, `is_given_up` on its provider's word alone."""

    record: LeaseRecord
    client: LeaseClient
    stage: Stage
    has_counter: bool = False
    pause_until: float = 0.0
    told_deposit: int = 0
    is_given_up: bool = False

    @property
    def place(self) -> Place:
        return self.record.provider, self.record.offer_id

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Of several leases of one offer the highest is used."""
        return self.stage is Stage.OPEN, self.record.version, self.record.expiry

    @property
    def locked(self) -> int:
        return self.client.book.deposit - self.client.book.owed


@dataclass(frozen=True)
class LeaseFigure:
    """A lease as people see it."""

    record: LeaseRecord
    stage: Stage
    deposit: int
    owed: int
    room: int


class LeaseKeeper:
    """Belongs to one event loop: `start` it there, and `stop` it."""

    def __init__(
        self,
        *,
        settings: LeaseSettings,
        token: str,
        desk: LeaseDesk,
        store: Store,
        notes: LeaseNotes,
        tokenizers: Tokenizers,
        clock: MarketClock,
        session_key: Callable[[LeaseRecord], Signer],
        make_client: Callable[[LeaseRecord, Signer], LeaseClient],
    ) -> None:
        """`token` is the address of the one that leases are paid in; `session_key` blocks."""
        self._settings = settings
        self._token = token
        self._desk = desk
        self._store = store
        self._notes = notes
        self._tokenizers = tokenizers
        self._clock = clock
        self._session_key = session_key
        self._make_client = make_client
        self._kept: dict[bytes, _Kept] = {}
        self._best: dict[Place, _Kept] = {}
        self._work: dict[Place, asyncio.Task[None]] = {}
        self._spending_lock = asyncio.Lock()
        self._rounds: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes up the leases of earlier runs. Without the chain as they were known last. Raises StoreError."""
        try:
            await asyncio.to_thread(self._desk.finish_openings)
        except ChainError as error:
            _log.warning("leases cannot be compared with the chain now: %s", error)
        await self._take_up_new()
        await self._look_after_all()
        self._rounds = asyncio.create_task(self._go_round())

    async def stop(self) -> None:
        """Waits for what is on its way; leases stay open."""
        if self._rounds is not None:
            self._rounds.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rounds
        await asyncio.gather(*self._work.values(), return_exceptions=True)
        for kept in self._kept.values():
            await kept.client.close()

    async def client_for(self, wanted: Wanted, needed: int) -> LeaseClient:
        """A client of a lease of this offer with room for a request that costs `needed` at most.

        Raises RouteFailed if there is none and none can be had.
        """
        while (client := self._ready(wanted, needed)) is None:
            await self._obtain(wanted, needed)
        return client

    def has_room(self, wanted: Wanted, needed: int) -> bool:
        """Whether a request needs no transaction."""
        kept = self._usable(wanted)
        return kept is not None and kept.client.room() >= needed

    def is_used(self, wanted: Wanted) -> bool:
        """Whether something was bought under the lease of an offer."""
        kept = self._usable(wanted)
        return kept is not None and kept.client.book.owed > 0

    def forget(self, client: LeaseClient) -> None:
        """The provider says that this lease takes no more requests: the next one gets another.

        Only once until that is released, else a provider could have us lock up everything with it. What the chain
        says of a lease needs nobody's word: see `look_after`.
        """
        kept = self._kept.get(client.record.lease_id)
        if kept is None or self._best.get(kept.place) is not kept:
            return
        of_provider = [each for each in self._kept.values() if each.record.provider == kept.record.provider]
        if not any(each.is_given_up for each in of_provider):
            kept.is_given_up = True
            del self._best[kept.place]

    def figures(self) -> list[LeaseFigure]:
        """Every lease that is not released."""
        return [
            LeaseFigure(kept.record, kept.stage, kept.client.book.deposit, kept.client.book.owed, kept.client.room())
            for kept in self._kept.values()
        ]

    def deposits(self, provider: int) -> tuple[int, int]:
        """What is deposited in leases with a provider, and with all."""
        of_all = [(kept.record.provider, kept.client.book.deposit) for kept in self._kept.values()]
        return sum(deposit for whose, deposit in of_all if whose == provider), sum(deposit for _, deposit in of_all)

    async def close_all(self) -> int:
        """Asks for the end of every open lease, and says of how many. Raises ChainError."""
        open_ones = [kept for kept in self._kept.values() if kept.stage is Stage.OPEN]
        for kept in open_ones:
            await self._close(kept)
        return len(open_ones)

    async def look_after(self) -> None:
        """One round: interrupted openings, closes and releases that are due, requests without an end.

        Raises ChainError, StoreError.
        """
        await asyncio.to_thread(self._desk.finish_openings)
        await self._take_up_new()
        leases = list(self._kept.values())
        released = [record.lease_id for record in self._store.leases() if self._may_come_back(record)]
        lease_ids = [*(kept.record.lease_id for kept in leases), *released]
        now, states = await asyncio.to_thread(self._desk.look, lease_ids)
        self._clock.update(now)
        for lease_id in released:
            if (state := states.get(lease_id)) is not None and not state.is_released:
                self._notes.keep(lease_id, LeaseNote(state.deposit, Stage.CLOSING if state.is_closing else Stage.OPEN))
        for kept in leases:
            try:
                if (state := states.get(kept.record.lease_id)) is not None:
                    await self._look_after(kept, state, now)
            except ChainError as error:
                _log.warning("lease 0x%s: %s", kept.record.lease_id.hex(), error)

    def _may_come_back(self, record: LeaseRecord) -> bool:
        """Whether it is released, but so lately that a node may have made that up."""
        return record.lease_id not in self._kept and self._clock.now() < record.expiry + RELEASED_FOR_S

    def _usable(self, wanted: Wanted) -> _Kept | None:
        offer, endpoint = wanted.offer, wanted.endpoint
        kept = self._best.get((offer.provider, offer.offer_id))
        if kept is None or kept.stage is not Stage.OPEN:
            return None
        is_young = kept.record.expiry - EXPIRY_MARGIN_S > self._clock.now()
        return kept if is_young and serves(kept.record, offer, endpoint) else None

    def _ready(self, wanted: Wanted, needed: int) -> LeaseClient | None:
        kept = self._usable(wanted)
        if kept is None or not kept.has_counter or (room := kept.client.room()) < needed:
            return None
        is_low = self._settings.is_low(room - needed, kept.client.book.deposit)
        if is_low and kept.place not in self._work and time.monotonic() >= kept.pause_until:
            self._begin(kept.place, self._refill(kept))
        return kept.client

    async def _obtain(self, wanted: Wanted, needed: int) -> None:
        place = (wanted.offer.provider, wanted.offer.offer_id)
        task = self._work.get(place)
        if task is None or task.done():
            task = self._begin(place, self._provide(wanted, needed))
        try:
            await asyncio.shield(task)
        except (ConsumerError, ProtocolError) as error:
            raise _failed(error) from error

    def _begin(self, place: Place, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._work[place] = task

        def ended(task: asyncio.Task[None]) -> None:
            if self._work.get(place) is task:
                del self._work[place]
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.warning("no lease of offer %d of provider %d: %s", place[1], place[0], error)

        task.add_done_callback(ended)
        return task

    async def _provide(self, wanted: Wanted, needed: int) -> None:
        kept = self._usable(wanted)
        if kept is None:
            async with self._spending_lock:
                kept = await self._open(wanted, needed)
        elif kept.client.room() < needed:
            async with self._spending_lock:
                if (room := kept.client.room()) < needed:
                    await self._top_up(kept, Wish(needed - room, max(needed, self._settings.amount.units) - room))
        if not kept.has_counter:
            document = wanted.offer.document
            kept.client.counter = await asyncio.to_thread(self._tokenizers.for_document, document)
            kept.has_counter = True

    async def _refill(self, kept: _Kept) -> None:
        kept.pause_until = time.monotonic() + PAUSE_S
        async with self._spending_lock:
            missing = self._settings.amount.units - kept.client.room()
            if missing > 0:
                await self._top_up(kept, Wish(missing, missing))

    async def _open(self, wanted: Wanted, needed: int) -> _Kept:
        if wanted.offer.terms.token != self._token:
            raise _no_money(
                "other_token", f"leases are paid in {self._settings.amount.token.symbol}, this offer is not"
            )
        await asyncio.to_thread(self._desk.finish_openings)  # what an earlier one locked counts
        await self._take_up_new()
        if (found := self._usable(wanted)) is not None:
            return found
        wish = self._allowed(Wish(needed, max(needed, self._settings.amount.units), self._settings.duration_s))
        record = await asyncio.to_thread(self._desk.open, wanted.offer, wanted.endpoint, wish, self._clock.now())
        _log.info("opened lease 0x%s of %d base units for %s", record.lease_id.hex(), record.deposit, record.model)
        kept = await self._take_up(record)
        self._best[kept.place] = kept
        return kept

    async def _top_up(self, kept: _Kept, wish: Wish) -> None:
        known = kept.client.book.deposit
        deposit = await asyncio.to_thread(self._desk.top_up, kept.record, known, self._allowed(wish))
        if deposit == known:
            message = "the chain does not show the top-up of the lease yet"
            raise RouteFailed(FailureClass.MONEY, message, status=503, code="chain_error")
        self._note(kept, deposit, kept.stage)
        _log.info("topped up lease 0x%s to %d base units", kept.record.lease_id.hex(), deposit)

    def _allowed(self, wish: Wish) -> Wish:
        locked = sum(kept.locked for kept in self._kept.values())
        locked += sum(self._notes.find(record).deposit for record in self._not_taken_up())
        free = self._settings.max_locked.units - locked
        if wish.least > free:
            raise _no_money(
                "max_locked",
                f"a lease needs {wish.least} base units more; of max_locked = {self._settings.max_locked} only "
                f"{max(0, free)} are not locked in leases: raise it, or close other leases",
            )
        return Wish(wish.least, min(wish.most, free), wish.duration_s, free)

    async def _take_up(self, record: LeaseRecord) -> _Kept:
        signer = await asyncio.to_thread(self._session_key, record)
        note = self._notes.find(record)
        kept = _Kept(record, self._make_client(record, signer), note.stage)
        kept.client.book.deposit = note.deposit
        self._kept[record.lease_id] = kept
        best = self._best.get(kept.place)
        if best is None or kept.rank > best.rank:
            self._best[kept.place] = kept
        return kept

    def _not_taken_up(self) -> list[LeaseRecord]:
        """Open leases that were opened meanwhile, or that cannot be used."""
        found = [record for record in self._store.leases() if record.lease_id not in self._kept]
        return [record for record in found if self._notes.find(record).stage is not Stage.RELEASED]

    async def _take_up_new(self) -> None:
        for record in self._not_taken_up():
            await self._try_to_take_up(record)

    async def _try_to_take_up(self, record: LeaseRecord) -> None:
        try:
            await self._take_up(record)
        except ProtocolError as error:
            _log.warning("lease 0x%s cannot be used: %s", record.lease_id.hex(), error)

    async def _go_round(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            await self._look_after_all()

    async def _look_after_all(self) -> None:
        try:
            await self.look_after()
        except (ConsumerError, ProtocolError) as error:
            _log.warning("leases could not be looked after: %s", error)

    async def _look_after(self, kept: _Kept, state: Lease, now: int) -> None:
        is_closing = state.is_closing or kept.stage is Stage.CLOSING  # a node may lag behind our own close
        stage = Stage.RELEASED if state.is_released else Stage.CLOSING if is_closing else Stage.OPEN
        # and behind our top-up: what it says against that has to be said twice
        is_believed = state.deposit in (kept.told_deposit, max(state.deposit, kept.client.book.deposit))
        kept.told_deposit = state.deposit
        self._note(kept, state.deposit if is_believed else kept.client.book.deposit, stage)
        if stage is not Stage.RELEASED:
            await kept.client.resolve()
            if now >= state.closes_at:
                await asyncio.to_thread(self._desk.release, kept.record.lease_id)
                self._note(kept, state.deposit, Stage.RELEASED)
            elif not state.is_closing and now < state.expiry and self._is_done_with(kept):
                await self._close(kept)
        if kept.stage is Stage.RELEASED:
            del self._kept[kept.record.lease_id]
            if self._best.get(kept.place) is kept:
                del self._best[kept.place]
            await kept.client.close()
            for seq in kept.client.book.open:
                await kept.client.book.write_off(seq)

    def _is_done_with(self, kept: _Kept) -> bool:
        return kept.stage is Stage.CLOSING or self._best.get(kept.place) is not kept

    async def _close(self, kept: _Kept) -> None:
        await asyncio.to_thread(self._desk.close, kept.record.lease_id)
        self._note(kept, kept.client.book.deposit, Stage.CLOSING)

    def _note(self, kept: _Kept, deposit: int, stage: Stage) -> None:
        if (deposit, stage) != (kept.client.book.deposit, kept.stage):
            self._notes.keep(kept.record.lease_id, LeaseNote(deposit, stage))
            kept.client.book.deposit, kept.stage = deposit, stage


def _no_money(code: str, message: str) -> RouteFailed:
    return RouteFailed(FailureClass.MONEY, message, status=402, code=code)


def _failed(error: Exception) -> RouteFailed:
    if isinstance(error, AccountTooLow):
        return _no_money("account_too_low", str(error))
    if isinstance(error, ChainError):
        return RouteFailed(FailureClass.MONEY, f"no lease: {error}", status=503, code="chain_error")
    return RouteFailed(FailureClass.MONEY, f"no lease: {error}", code="no_lease")
