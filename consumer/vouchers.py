"""Signing for one lease: request numbers and exact cumulative vouchers, under one lock, on disk before use."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from consumer.exceptions import LeaseExhausted
from consumer.records import Draft, LeaseRecord
from consumer.store import Store
from protocol.headers import RequestContext, Signed
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt, Voucher


@dataclass(frozen=True)
class Authorised:
    """A request number with the voucher that authorises it."""

    voucher: Signed[Voucher]
    context: RequestContext


class VoucherBook:
    """One lease's session key at work."""

    def __init__(
        self, domain: Domain, store: Store, record: LeaseRecord, signer: Signer, now: Callable[[], int]
    ) -> None:
        self._domain = domain
        self._store = store
        self._record = record
        self._signer = signer
        self._now = now
        self._lock = asyncio.Lock()

    async def authorise(self, draft: Draft) -> Authorised:
        """Reserves a number on disk, then signs for the request: no number is ever signed for twice.

        Raises LeaseExhausted if the deposit does not cover the request, StoreError.
        """
        lease_id = self._record.lease_id
        async with self._lock:
            promised = self._store.promised(lease_id)
            needed = max(self._store.owed(lease_id), self._highest()) + promised + draft.max_cost
            if needed > self._record.deposit:
                raise LeaseExhausted(
                    f"the request may bring the lease to {needed} base units ({promised} are promised to requests "
                    f"under way), its deposit is {self._record.deposit}: ask for fewer tokens, or open another lease"
                )
            context = self._store.reserve(lease_id, draft, self._now())
            return Authorised(self._sign(context.context, context.seq), context)

    async def pay(self, receipt: Signed[Receipt], owed: int | None = None) -> Signed[Voucher]:
        """Keeps a checked receipt and signs for all that is owed now. Raises StoreError."""
        async with self._lock:
            self._store.record_receipt(receipt, owed)
            return self._sign()

    async def refused(self, seq: int) -> None:
        """Notes that a request was not admitted."""
        async with self._lock:
            self._store.release(self._record.lease_id, seq)

    def _highest(self) -> int:
        highest = self._store.highest_voucher(self._record.lease_id)
        return highest.message.cumulative if highest else 0

    def _sign(self, context: bytes = bytes(32), seq: int | None = None) -> Signed[Voucher]:
        cumulative = max(self._highest(), self._store.owed(self._record.lease_id))
        voucher = Voucher(self._record.lease_id, cumulative, context)
        signed = Signed(voucher, self._signer.sign(self._domain, voucher))
        self._store.record_voucher(signed, seq)
        return signed
