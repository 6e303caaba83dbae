"""Signing for one lease: request numbers and exact cumulative vouchers, one after another, on disk before use.

What a lease owes is kept here in memory, so that a request costs one write when it is authorised and one a receipt.
Vouchers follow what is owed: one covers all receipts before it. All changes are made on one event loop, between two
awaits, and written in that order.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from consumer.exceptions import LeaseExhausted, StoreError
from consumer.records import Draft, LeaseRecord, OpenCost
from consumer.store import Store
from protocol.headers import RequestContext, Signed
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt, Voucher

_NOTHING = OpenCost(0, 0)


@dataclass(frozen=True)
class Authorised:
    """A request number with the voucher that authorises it."""

    voucher: Signed[Voucher]
    context: RequestContext


class Hold(Protocol):
    """What a request may cost, set aside in a budget until its end is known."""

    def settle(self, cost: int) -> None: ...


class VoucherBook:
    """One lease's session key at work. `hold` sets aside what a request may cost, or raises; by default none does."""

    def __init__(
        self,
        domain: Domain,
        store: Store,
        record: LeaseRecord,
        signer: Signer,
        now: Callable[[], int],
        hold: Callable[[Draft], Hold] | None = None,
    ) -> None:
        """Raises StoreError."""
        self._hold = hold
        self._holds: dict[int, Hold] = {}
        self._domain = domain
        self._store = store
        self._record = record
        self._signer = signer
        self._now = now
        self._next_seq = store.next_seq(record.lease_id)
        self._open = store.open_costs(record.lease_id)
        self._promised = sum(cost.promised for cost in self._open.values())
        self._owed = store.owed(record.lease_id)
        highest = store.highest_voucher(record.lease_id)
        self._highest = highest.message.cumulative if highest else 0
        self._last: Signed[Voucher] | None = None  # without a request
        self.deposit = record.deposit

    @property
    def open(self) -> frozenset[int]:
        """Numbers of the requests whose end is not known."""
        return frozenset(self._open)

    @property
    def owed(self) -> int:
        """What all requests are known to cost so far."""
        return self._owed

    def room(self) -> int:
        """What another request may cost at most."""
        return self.deposit - max(self._owed, self._highest) - self._promised

    @property
    def is_behind(self) -> bool:
        """Whether more is owed than any voucher says."""
        return self._owed > self._highest

    async def authorise(self, draft: Draft) -> Authorised:
        """Signs for a request under a number that is never given again.

        Raises LeaseExhausted if the deposit does not cover the request, StoreError, and what `hold` raises.
        """
        room = self.room()
        if draft.max_cost > room:
            raise LeaseExhausted(
                f"the request may cost {draft.max_cost} base units, {max(0, room)} of the lease's deposit of "
                f"{self.deposit} are neither owed nor promised to requests under way: ask for fewer tokens, or open "
                "another lease"
            )
        hold = self._hold(draft) if self._hold else None
        context = RequestContext(self._next_seq, draft.request_hash, draft.max_cost, self._now(), draft.salt)
        self._next_seq += 1
        self._set(context.seq, OpenCost(draft.max_cost, draft.prepaid))
        if hold is not None:
            self._holds[context.seq] = hold
        voucher = self._sign(context.context)
        try:
            await self._store.write(lambda: self._store.authorise(draft, context, voucher))
        except StoreError:
            self._end(context.seq, 0)
            raise
        except asyncio.CancelledError:
            self._refused(context.seq)  # nobody will send it
            raise
        return Authorised(voucher, context)

    async def pay(self, receipt: Signed[Receipt], owed: int | None = None) -> None:
        """Keeps a checked receipt: its cost is owed from now on, or `owed` where given. Raises StoreError."""
        message = receipt.message
        cost = message.cost if owed is None else owed

        def owe() -> None:
            if message.final:
                self._end(message.seq, cost)
            elif (before := self._open.get(message.seq)) is not None:
                self._set(message.seq, OpenCost(before.most, cost))

        await self._store.write_later(lambda: self._store.record_receipt(receipt, owed), owe)

    async def voucher(self) -> Signed[Voucher]:
        """For all that is owed now. Raises StoreError."""
        if self._last is None or self._last.message.cumulative < max(self._owed, self._highest):
            voucher = self._sign()
            await self._store.write(lambda: self._store.record_voucher(voucher))
            self._last = voucher
        return self._last

    async def admitted(self, seq: int) -> None:
        """The provider began to answer. Raises StoreError."""
        await self._store.write_later(lambda: self._store.admitted(self._record.lease_id, seq), lambda: None)

    async def refused(self, seq: int) -> None:
        """The provider did not take a request: it costs nothing. Raises StoreError."""
        await self._refused(seq)

    async def dispute(self, seq: int) -> None:
        """Nothing more is signed for a request, beyond what is owed for it already. Raises StoreError."""
        await self._store.write_later(
            lambda: self._store.dispute(self._record.lease_id, seq),
            lambda: self._end(seq, self._open[seq].owed) if seq in self._open else None,
        )

    async def write_off(self, seq: int) -> None:
        """Nothing more will be known of a request: what is owed for it already is what it cost. Raises StoreError."""
        await (self.dispute(seq) if self._open[seq].owed else self.refused(seq))

    def _refused(self, seq: int) -> asyncio.Future[None]:
        return self._store.write_later(
            lambda: self._store.release(self._record.lease_id, seq), lambda: self._end(seq, 0)
        )

    def _set(self, seq: int, cost: OpenCost) -> None:
        """A request may cost this from now on, and is known to cost some of it."""
        before = self._open.get(seq, _NOTHING)
        self._open[seq] = cost
        self._promised += cost.promised - before.promised
        self._owed += cost.owed - before.owed

    def _end(self, seq: int, cost: int) -> None:
        """What was paid in advance and is not owed after all is spent as long as a voucher says it."""
        if seq not in self._open:
            return
        given = self._open[seq].owed
        self._set(seq, OpenCost(cost, cost))
        del self._open[seq]
        if hold := self._holds.pop(seq, None):
            hold.settle(max(cost, min(given, cost + self._highest - self._owed)))

    def _sign(self, context: bytes = bytes(32)) -> Signed[Voucher]:
        self._highest = max(self._highest, self._owed)
        voucher = Voucher(self._record.lease_id, self._highest, context)
        return Signed(voucher, self._signer.sign(self._domain, voucher))
