"""Releasing: leases that are over leave the offer's count of active leases, and their rest returns to their owners.

Anyone may release; a provider does so a few at a time, because an offer full of dead leases takes no new ones. Until
then each lease is looked at now and then, also when it counts as settled: one answer of a node may have been wrong.
Leases that never sent a voucher are not known here.
"""

import asyncio
import logging

from protocol.chain.exceptions import ChainError, RpcUnavailable
from protocol.chain.sender import TransactionSender
from provider.market import Market
from provider.service import InferenceService
from provider.settling import note_settled

_log = logging.getLogger(__name__)
LOOK_S = 1_800
"""Between two looks at a lease: so one falls into the time in which settling is urgent."""
LOOKS_PER_TICK = 64


class Releasing:
    """One provider's leases until they are released; at most `per_tick` transactions a tick, none if 0."""

    def __init__(self, service: InferenceService, market: Market, sender: TransactionSender, per_tick: int) -> None:
        self._service = service
        self._market = market
        self._sender = sender
        self._per_tick = per_tick
        self._look_at: dict[bytes, int] = {}
        self._said_released: set[bytes] = set()

    async def tick(self) -> list[bytes]:
        """Looks at the leases that are due, sends releases and returns those leases.

        Raises ChainError when the chain cannot be read.
        """
        sent: list[bytes] = []
        for lease_id in await self._due():
            try:
                if await self._is_over(lease_id) and len(sent) < self._per_tick:
                    await asyncio.to_thread(self._submit, lease_id)
                    sent.append(lease_id)
            except RpcUnavailable:
                raise
            except ChainError as error:
                self._look_at[lease_id] = self._service.clock.block_time() + LOOK_S
                _log.warning("lease 0x%s is released later: %s", lease_id.hex(), error)
        return sent

    async def _due(self) -> list[bytes]:
        """The leases to look at now, those first that have waited for longest; a clock that was ahead holds none up."""
        unreleased = await self._service.write(self._service.ledger.unreleased)
        self._look_at = {lease_id: self._look_at.get(lease_id, 0) for lease_id in unreleased}
        self._said_released &= self._look_at.keys()
        now = self._service.clock.block_time()
        due = [lease_id for lease_id, at in self._look_at.items() if not now < at <= now + LOOK_S]
        return sorted(due, key=self._look_at.__getitem__)[:LOOKS_PER_TICK]

    async def _is_over(self, lease_id: bytes) -> bool:
        """Looks at a lease: whether it can be released."""
        lease = await self._market.lease(lease_id)
        now = self._service.clock.block_time()
        self._look_at[lease_id] = now + LOOK_S
        if lease is None:
            return False
        await note_settled(self._service, lease)
        if lease.is_released:
            await self._note_released(lease_id)
            return False
        self._said_released.discard(lease_id)
        self._look_at[lease_id] = min(max(lease.closes_at, now), now + LOOK_S)
        return now >= lease.closes_at

    async def _note_released(self, lease_id: bytes) -> None:
        """Its vouchers are forgotten only when two looks agree."""
        if lease_id in self._said_released:
            await self._service.write(self._service.ledger.record_release, lease_id)
        self._said_released.add(lease_id)

    def _submit(self, lease_id: bytes) -> None:
        data = self._market.client.encode("LeaseEscrow", "release", lease_id)
        address = self._market.client.deployment.address("LeaseEscrow")
        name = f"release:{lease_id.hex()}"
        self._sender.retry(name, address, data, is_over=lambda attempt: attempt.has_ended)
