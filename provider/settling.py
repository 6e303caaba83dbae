"""Settling: the highest voucher of every lease goes on chain when it is worth it, or when waiting would risk it.

A tick sends and returns; what became of it is seen by later ticks. Nothing waits for a block to become final.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ChainError, RpcUnavailable
from protocol.chain.sender import TransactionSender
from protocol.chain.transactions import Transaction
from protocol.hashing import keccak
from protocol.headers import Signed
from protocol.typed_data import Voucher
from provider.leases import Lease
from provider.market import Market
from provider.service import InferenceService

_log = logging.getLogger(__name__)
MAX_BATCH = 128
DAY_S = 86_400
NEAR_DEPOSIT_PERCENT = 90
# measured on the contracts: what a batch costs by itself, and each lease in it
BASE_GAS = 45_000
LEASE_GAS = 18_000
# an estimate is too low when a day begins before the block does (27,300 more for the first credit of a day), or when it
# is made on a state in which someone else has settled the same vouchers (10,400 less for each)
GAS_MARGIN = 80_000
LEASE_GAS_LIMIT = 30_000
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


@dataclass(frozen=True)
class _Sent:
    """What was last sent for a lease, and the name of its transaction."""

    cumulative: int
    name: str


def is_due(
    lease: Lease, voucher: Voucher, last_settled_at: int, now: int, gas_cost: int, policy: SettlingPolicy, sent: int = 0
) -> bool:
    """Whether a lease's voucher should be settled now.

    `now` is the head's timestamp, `gas_cost` in token base units; `sent` is a cumulative that is on its way already.
    """
    unsettled = min(voucher.cumulative, lease.deposit) - max(lease.settled, sent)
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


def gas_limit(estimate: int, leases: int) -> int:
    """The limit for a batch: enough whatever happens between the estimate and the block."""
    return max(estimate + estimate // 5, BASE_GAS + leases * LEASE_GAS_LIMIT) + GAS_MARGIN


def submit(
    client: ChainClient, sender: TransactionSender, provider: int, token: str, batch: Sequence[Signed[Voucher]]
) -> str:
    """Sends a batch; returns the name of its transaction, which is the same for the same batch. Raises ChainError."""
    rows = []
    for signed in batch:
        r, vs = signed.signature.compact()
        voucher = signed.message
        rows.append((voucher.lease_id, voucher.cumulative, voucher.context, r, vs))
    data = client.encode("LeaseEscrow", "settle", provider, token, rows)
    name = f"settle:{keccak(data).hex()[:32]}"
    escrow = client.deployment.address("LeaseEscrow")
    estimate = client.estimate_gas(Transaction(escrow, data).as_request(sender.address))
    outcome = sender.retry(name, escrow, data, gas=gas_limit(estimate, len(batch)))
    if outcome.has_failed or outcome.note:
        _log.warning("settlement %s at nonce %d: %s", outcome.key, outcome.nonce, outcome.note)
    return name


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
        self._sent: dict[bytes, _Sent] = {}

    async def tick(self, *, force: bool = False) -> list[Settled]:
        """Notes what the chain has settled and sends what is due; with `force` everything unsettled.

        A batch that cannot be sent is logged and tried again by the next tick; the others go out. Raises ChainError
        when the chain cannot be read.
        """
        await self._market.refresh()
        settled, due = await self._look(force=force)
        for token, rows in due.items():
            for start in range(0, len(rows), MAX_BATCH):
                batch = rows[start : start + MAX_BATCH]
                try:
                    name = await asyncio.to_thread(self._submit, token, batch)
                except ChainError as error:
                    _log.warning("%d vouchers of %s are settled later: %s", len(batch), token, error)
                    continue
                for signed in batch:
                    self._sent[signed.message.lease_id] = _Sent(signed.message.cumulative, name)
        return settled

    async def _look(self, *, force: bool) -> tuple[list[Settled], dict[str, list[Signed[Voucher]]]]:
        """What the chain has settled since the last look, and the vouchers that are due, the most urgent first."""
        ledger = self._service.ledger
        gas_cost = 0 if force else await asyncio.to_thread(self._gas_cost)
        settled: list[Settled] = []
        due: dict[str, list[tuple[int, Signed[Voucher]]]] = defaultdict(list)
        for lease_id in await self._service.write(ledger.unsettled):
            signed = await self._service.write(ledger.highest_voucher, lease_id)
            try:
                lease = await self._market.lease(lease_id)
            except RpcUnavailable:
                raise
            except ChainError as error:
                _log.warning("lease 0x%s is settled later: %s", lease_id.hex(), error)
                continue
            if signed is None or lease is None:
                continue
            if await self._note(lease):
                settled.append(Settled(lease_id, lease.settled))
            _, settled_at = await self._service.write(ledger.last_settlement, lease_id)
            now = self._service.clock.block_time()
            if is_due(lease, signed.message, settled_at, now, gas_cost, self._policy, self._on_its_way(lease_id)):
                due[lease.token].append((lease.closes_at, signed))
        ordered = {token: [signed for _, signed in sorted(rows, key=lambda row: row[0])] for token, rows in due.items()}
        return settled, ordered

    def _on_its_way(self, lease_id: bytes) -> int:
        """Up to where the lease was sent to be settled, unless that failed for good."""
        sent = self._sent.get(lease_id)
        if sent is None:
            return 0
        outcome = self._sender.latest(sent.name)
        return 0 if outcome is None or outcome.has_failed else sent.cumulative

    def _gas_cost(self) -> int:
        fees = self._client.fees()
        per_gas = (fees.max_fee - fees.tip) // 2 + fees.tip
        return (BASE_GAS + LEASE_GAS) * per_gas * self._policy.ether_price // WEI_PER_ETHER

    def _submit(self, token: str, batch: list[Signed[Voucher]]) -> str:
        return submit(self._client, self._sender, self._service.provider, token, batch)

    async def _note(self, lease: Lease) -> bool:
        """Records what the chain has settled, in a final block, if that is new."""
        account = await self._service.write(self._service.ledger.account, lease.lease_id)
        if lease.settled <= account.settled:
            return False
        self._service.leases.forget(lease.lease_id)
        now = self._service.clock.now()
        await self._service.write(self._service.ledger.record_settlement, lease.lease_id, lease.settled, now)
        return True
