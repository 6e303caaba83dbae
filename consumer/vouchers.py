"""Signing for one lease: request numbers and exact cumulative vouchers, under one lock, on disk before use."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from consumer.exceptions import LeaseExhausted
from consumer.store import LeaseRecord, Store
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

    async def authorise(self, request_hash: bytes, salt: bytes, max_cost: int, prepaid: int) -> Authorised:
        """Reserves a number and signs for a request; `prepaid` is the part of it paid in advance.

        Raises LeaseExhausted if the deposit does not cover the request, StoreError.
        """
        lease_id = self._record.lease_id
        async with self._lock:
            needed = max(self._store.owed(lease_id), self._highest()) + self._store.promised(lease_id) + max_cost
            if needed > self._record.deposit:
                raise LeaseExhausted(
                    f"the request may bring the lease to {needed}, its deposit is {self._record.deposit}"
                )
            seq = self._store.reserve(lease_id, max_cost, prepaid)
            context = RequestContext(seq, request_hash, max_cost, self._now(), salt)
            return Authorised(self._sign(context.context), context)

    async def pay(self, receipt: Signed[Receipt]) -> Signed[Voucher]:
        """Keeps a checked receipt and signs for all that is owed now. Raises StoreError."""
        async with self._lock:
            self._store.record_receipt(receipt)
            return self._sign()

    async def refused(self, seq: int) -> None:
        """Notes that a request was not admitted."""
        async with self._lock:
            self._store.release(self._record.lease_id, seq)

    def _highest(self) -> int:
        highest = self._store.highest_voucher(self._record.lease_id)
        return highest.message.cumulative if highest else 0

    def _sign(self, context: bytes = bytes(32)) -> Signed[Voucher]:
        cumulative = max(self._highest(), self._store.owed(self._record.lease_id))
        voucher = Voucher(self._record.lease_id, cumulative, context)
        signed = Signed(voucher, self._signer.sign(self._domain, voucher))
        self._store.record_voucher(signed)
        return signed
