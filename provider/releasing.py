"""Releasing: leases that are over leave the offer's count of active leases, and their rest returns to their owners.

Anyone may release; a provider does so a few at a time, because an offer full of dead leases takes no new ones. Leases
that never sent a voucher are not known here.
"""

import asyncio
import logging

from protocol.chain.exceptions import ChainError, RpcUnavailable
from protocol.chain.sender import TransactionSender
from provider.market import Market
from provider.service import InferenceService

_log = logging.getLogger(__name__)
DAY_S = 86_400
LOOKS_PER_TICK = 32


class Releasing:
    """One provider's closed leases; at most `per_tick` transactions a tick, none if 0."""

    def __init__(self, service: InferenceService, market: Market, sender: TransactionSender, per_tick: int) -> None:
        self._service = service
        self._market = market
        self._sender = sender
        self._per_tick = per_tick
        self._look_at: dict[bytes, int] = {}

    async def tick(self) -> list[bytes]:
        """Sends what is due and returns those leases. Raises ChainError when the chain cannot be read."""
        sent: list[bytes] = []
        if self._per_tick == 0:
            return sent
        looks = 0
        for lease_id in await self._service.write(self._service.ledger.unreleased):
            now = self._service.clock.block_time()
            if now < self._look_at.get(lease_id, 0):
                continue
            if looks == LOOKS_PER_TICK or len(sent) == self._per_tick:
                break
            looks += 1
            try:
                if await self._look(lease_id):
                    sent.append(lease_id)
            except RpcUnavailable:
                raise
            except ChainError as error:
                self._look_at[lease_id] = now + DAY_S
                _log.warning("lease 0x%s is released later: %s", lease_id.hex(), error)
        return sent

    async def _look(self, lease_id: bytes) -> bool:
        """Whether the lease was closed and its release is sent."""
        lease = await self._market.lease(lease_id)
        now = self._service.clock.block_time()
        if lease is not None and lease.is_released:
            await self._service.write(self._service.ledger.record_release, lease_id)
            self._look_at.pop(lease_id, None)
        elif lease is None or now < lease.closes_at:
            self._look_at[lease_id] = now + DAY_S if lease is None else min(lease.closes_at, now + DAY_S)
        else:
            await asyncio.to_thread(self._submit, lease_id)
            return True
        return False

    def _submit(self, lease_id: bytes) -> None:
        data = self._market.client.encode("LeaseEscrow", "release", lease_id)
        address = self._market.client.deployment.address("LeaseEscrow")
        self._sender.retry(f"release:{lease_id.hex()}", address, data)
