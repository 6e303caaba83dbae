"""Whose signature counts on a lease's receipts: the provider's node keys, each for its own span of time.

A provider may rotate its key while a lease runs. Then receipts by the new key count from its start on, and receipts by
the old one only up to its end; the registry says which is when.
"""

import asyncio
import time
from collections.abc import Callable

from consumer.exceptions import ReceiptRejected
from consumer.records import LeaseRecord
from consumer.store import Store
from protocol.chain.exceptions import ChainError
from protocol.chain.views import KeyRecord
from protocol.exceptions import InvalidSignature
from protocol.headers import Signed
from protocol.typed_data import Domain, Receipt

MAX_AGE_S = 60.0
"""How old the registry's word about a key may be."""

FOREVER = 2**40 - 1
"""The `valid_until` of a key that is still valid."""

KeyLookup = Callable[[str], KeyRecord]
"""The registry's record of a key; blocks. Raises ChainError."""


class NodeKeys:
    """The keys of one lease's provider. Without `lookup` only the key known at the lease's opening counts."""

    def __init__(self, domain: Domain, store: Store, record: LeaseRecord, lookup: KeyLookup | None) -> None:
        self._domain = domain
        self._store = store
        self._lease_id = record.lease_id
        self._provider = record.provider
        self._lookup = lookup
        self._current = record.node_key
        self._known: dict[str, tuple[float, KeyRecord]] = {}
        self._lock = asyncio.Lock()

    async def check(self, signed: Signed[Receipt]) -> None:
        """Raises ReceiptRejected unless a key that was the provider's at the receipt's time signed it.

        Raises ChainError when it is another key than before and the registry cannot be asked.
        """
        try:
            key = signed.recover(self._domain)
        except InvalidSignature as error:
            raise ReceiptRejected("signature", "by no key at all") from error
        if self._lookup is None:
            if key != self._current:
                raise ReceiptRejected("signature", "not by the provider's node key")
            return
        async with self._lock:
            found = await self._record(key, self._lookup)
        if found.provider != self._provider:
            raise ReceiptRejected("signature", "not by the provider's node key")
        if not found.valid_from <= signed.message.ended_at <= found.valid_until:
            raise ReceiptRejected(
                "signature", f"by a node key of {found.valid_from} to {found.valid_until}, not of the receipt's time"
            )
        if key != self._current and found.valid_until == FOREVER:
            self._store.set_node_key(self._lease_id, key)
            self._current = key

    async def _record(self, key: str, lookup: KeyLookup) -> KeyRecord:
        read_at, known = self._known.get(key, (0.0, None))
        if known is not None and time.monotonic() - read_at < MAX_AGE_S:
            return known
        try:
            found = await asyncio.to_thread(lookup, key)
        except ChainError:
            if known is not None:
                return known
            if key == self._current:
                return KeyRecord(self._provider, 0, FOREVER)
            raise
        self._known[key] = (time.monotonic(), found)
        return found
