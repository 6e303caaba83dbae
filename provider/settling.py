"""Settling: the highest voucher of every lease goes on chain when it is worth it, or when waiting would risk it."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass

from protocol.chain.client import ChainClient
from protocol.chain.sender import TransactionSender
from protocol.hashing import keccak
from protocol.headers import Signed
from protocol.typed_data import Voucher
from provider.leases import Lease
from provider.market import Market
from provider.service import InferenceService

MAX_BATCH = 128
DAY_S = 86_400
NEAR_DEPOSIT_PERCENT = 90
TIMEOUT_S = 180.0
# measured on the contracts: what a batch costs by itself, and each lease in it
BASE_GAS = 45_000
LEASE_GAS = 18_000
WEI_PER_ETHER = 10**18


@dataclass(frozen=True)
class SettlingPolicy:
    """`gas_multiple`: unsettled value must be this many times its gas cost; `ether_price`: token base units per ether;
    `margin_s`: how long before a lease's end settling becomes urgent."""

    gas_multiple: int
    ether_price: int
    margin_s: int = 3_600


@dataclass(frozen=True)
class Settled:
    """A lease the chain has now settled up to `cumulative`, in token base units."""

    lease_id: bytes
    cumulative: int


def is_due(
    lease: Lease, voucher: Voucher, last_settled_at: int, now: int, gas_cost: int, policy: SettlingPolicy
) -> bool:
    """Whether a lease's voucher should be settled now; `gas_cost` in token base units."""
    unsettled = min(voucher.cumulative, lease.deposit) - lease.settled
    if unsettled <= 0 or lease.is_released or now >= lease.closes_at:
        return False
    return (
        unsettled >= policy.gas_multiple * gas_cost
        or voucher.cumulative * 100 >= lease.deposit * NEAR_DEPOSIT_PERCENT
        or lease.is_closing
        or lease.is_revoked
        or now + policy.margin_s >= min(lease.expiry, lease.closes_at)
        or now - last_settled_at >= DAY_S
    )


class Settling:
    """One provider's settlements."""

    def __init__(
        self, service: InferenceService, market: Market, sender: TransactionSender, policy: SettlingPolicy
    ) -> None:
        self._service = service
        self._market = market
        self._client: ChainClient = market.client
        self._sender = sender
        self._policy = policy

    async def tick(self, *, force: bool = False) -> list[Settled]:
        """Settles what is due; with `force` everything unsettled. Raises ChainError; the next tick goes on."""
        await self._market.refresh()
        due = await self._due(force=force)
        settled: list[Settled] = []
        for token, rows in due.items():
            for start in range(0, len(rows), MAX_BATCH):
                batch = rows[start : start + MAX_BATCH]
                await asyncio.to_thread(self._submit, token, batch)
                settled += await self._note([signed.message.lease_id for signed in batch])
        return settled

    async def _due(self, *, force: bool) -> dict[str, list[Signed[Voucher]]]:
        ledger = self._service.ledger
        gas_cost = await asyncio.to_thread(self._gas_cost)
        due: dict[str, list[Signed[Voucher]]] = defaultdict(list)
        for lease_id in await self._service.write(ledger.unsettled):
            signed = await self._service.write(ledger.highest_voucher, lease_id)
            lease = await self._market.lease(lease_id)
            if signed is None or lease is None:
                continue
            _, settled_at = await self._service.write(ledger.last_settlement, lease_id)
            now = self._service.clock.now()
            cost = 0 if force else gas_cost
            if is_due(lease, signed.message, settled_at, now, cost, self._policy):
                due[lease.token].append(signed)
            elif lease.settled > (await self._service.write(ledger.account, lease_id)).settled:
                await self._note([lease_id])
        return due

    def _gas_cost(self) -> int:
        fees = self._client.fees()
        per_gas = (fees.max_fee - fees.tip) // 2 + fees.tip
        return (BASE_GAS + LEASE_GAS) * per_gas * self._policy.ether_price // WEI_PER_ETHER

    def _submit(self, token: str, batch: list[Signed[Voucher]]) -> None:
        rows = []
        for signed in batch:
            r, vs = signed.signature.compact()
            voucher = signed.message
            rows.append((voucher.lease_id, voucher.cumulative, voucher.context, r, vs))
        data = self._client.encode("LeaseEscrow", "settle", self._service.provider, token, rows)
        key = f"settle:{keccak(data).hex()[:32]}"
        self._sender.execute(key, self._client.deployment.address("LeaseEscrow"), data, timeout=TIMEOUT_S)

    async def _note(self, lease_ids: list[bytes]) -> list[Settled]:
        noted = []
        for lease_id in lease_ids:
            self._service.leases.forget(lease_id)
            lease = await self._market.lease(lease_id)
            if lease is None:
                continue
            account = await self._service.write(self._service.ledger.account, lease_id)
            if lease.settled > account.settled:
                now = self._service.clock.now()
                await self._service.write(self._service.ledger.record_settlement, lease_id, lease.settled, now)
                noted.append(Settled(lease_id, lease.settled))
        return noted
