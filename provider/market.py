"""The worker's view of the chain: leases with enough confirmations."""

import asyncio

from protocol.chain.client import ChainClient
from protocol.chain.clock import MarketClock
from protocol.chain.exceptions import ContractReverted
from provider.leases import Lease


class Market:
    """Reads the chain off the event loop."""

    def __init__(self, client: ChainClient, clock: MarketClock) -> None:
        self.client = client
        self.clock = clock

    async def refresh(self) -> None:
        """Reads the head for the clock. Raises ChainError."""
        self.clock.update((await asyncio.to_thread(self.client.head)).timestamp)

    async def lease(self, lease_id: bytes) -> Lease | None:
        """The lease in the newest final block, None if that has none. Raises ChainError."""
        return await asyncio.to_thread(self.read_lease, lease_id)

    def read_lease(self, lease_id: bytes) -> Lease | None:
        """As `lease`, blocking. A close or a revocation counts from the head already, unlike settlement and release."""
        head = self.client.head()
        self.clock.update(head.timestamp)
        final = self.client.final_block(head)
        if final < 0:
            return None
        call = self.client.reads.lease(lease_id)
        try:
            found = newest = self.client.get(call, final)
            if final != head.number:
                newest = self.client.get(call, head.number)
        except ContractReverted:
            return None
        return Lease(
            lease_id=lease_id,
            owner=found.owner,
            provider=found.provider,
            offer_id=found.offer_id,
            version=found.version,
            token=found.token,
            signer=found.signer,
            deposit=found.deposit,
            settled=found.settled,
            expiry=found.expiry,
            closes_at=newest.closes_at,
            fee_bps=found.fee_bps,
            is_closing=newest.is_closing,
            is_revoked=newest.is_revoked,
            is_released=found.is_released,
        )
