"""Settling: the highest voucher of every lease goes on chain when it is worth it, or when waiting would risk it.

A tick sends and returns; what became of it is seen by later ticks. Nothing waits for a block to become final.

What the chain has settled is taken from final blocks, and from the newest answer: one that says less takes back what
another said before. So leases are looked at once more after they count as settled, and by `releasing` until they end.
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
RESEND_S = 600
"""So long a final settlement without effect may be due to a node that is behind."""


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
    """What was last sent for a lease, the name of its transaction, and when."""

    cumulative: int
    name: str
    at: int


def is_due(
    lease: Lease, voucher: Voucher, last_settled_at: int, now: int, gas_cost: int, policy: SettlingPolicy, sent: int = 0
) -> bool:
    """Whether the voucher of a lease that is not over should be settled now.

    `now` is the market's time, so that nothing waits when a node is behind; `gas_cost` is in token base units, `sent` a
    cumulative that is on its way already.
    """
    unsettled = min(voucher.cumulative, lease.deposit) - max(lease.settled, sent)
    if unsettled <= 0 or lease.is_released:
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
    """Sends a batch; returns the name of its transaction, which is the same for the same batch. Raises ChainError.

    It goes out anew when the last attempt is final and, as its caller found, without effect.
    """
    rows = []
    for signed in batch:
        r, vs = signed.signature.compact()
        voucher = signed.message
        rows.append((voucher.lease_id, voucher.cumulative, voucher.context, r, vs))
    data = client.encode("LeaseEscrow", "settle", provider, token, rows)
    name = f"settle:{keccak(data).hex()[:32]}"
    escrow = client.deployment.address("LeaseEscrow")
    estimate = client.estimate_gas(Transaction(escrow, data).as_request(sender.address))
    gas = gas_limit(estimate, len(batch))
    outcome = sender.retry(name, escrow, data, gas=gas, is_over=lambda attempt: attempt.has_ended)
    if outcome.has_failed or outcome.note:
        _log.warning("settlement %s at nonce %d: %s", outcome.key, outcome.nonce, outcome.note)
    return name


async def note_settled(service: InferenceService, lease: Lease) -> Settled | None:
    """Makes the ledger say what the chain has settled by our vouchers; returns what is new in that."""
    account = await service.write(service.ledger.account, lease.lease_id)
    settled = min(lease.settled, account.cumulative)
    if settled == account.settled:
        return None
    service.leases.forget(lease.lease_id)
    await service.write(service.ledger.record_settlement, lease.lease_id, settled, service.clock.now())
    if settled > account.settled:
        return Settled(lease.lease_id, settled)
    _log.warning(
        "lease 0x%s is settled up to %d, and not to %d as was said before",
        lease.lease_id.hex(),
        settled,
        account.settled,
    )
    return None


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
        self._noted: list[bytes] = []

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
                now = self._service.clock.now()
                for signed in batch:
                    self._sent[signed.message.lease_id] = _Sent(signed.message.cumulative, name, now)
        return settled

    async def _look(self, *, force: bool) -> tuple[list[Settled], dict[str, list[Signed[Voucher]]]]:
        """What the chain has settled since the last look, and the vouchers that are due, the most urgent first."""
        ledger, clock = self._service.ledger, self._service.clock
        gas_cost = 0 if force else await asyncio.to_thread(self._gas_cost)
        settled: list[Settled] = []
        due: dict[str, list[tuple[int, Signed[Voucher]]]] = defaultdict(list)
        looked_at = dict.fromkeys([*await self._service.write(ledger.unsettled), *self._noted])
        self._sent = {lease_id: sent for lease_id, sent in self._sent.items() if lease_id in looked_at}
        for lease_id in looked_at:
            try:
                lease = await self._market.lease(lease_id)
            except RpcUnavailable:
                raise
            except ChainError as error:
                _log.warning("lease 0x%s is settled later: %s", lease_id.hex(), error)
                continue
            signed = await self._service.write(ledger.highest_voucher_by, lease.signer, lease_id) if lease else None
            if signed is None or lease is None:
                continue
            if noted := await note_settled(self._service, lease):
                settled.append(noted)
            if clock.block_time() >= lease.closes_at:
                continue
            _, settled_at = await self._service.write(ledger.last_settlement, lease_id)
            sent = self._on_its_way(lease_id)
            if is_due(lease, signed.message, settled_at, clock.now(), gas_cost, self._policy, sent):
                due[lease.token].append((lease.closes_at, signed))
        self._noted = [noted.lease_id for noted in settled]
        ordered = {token: [signed for _, signed in sorted(rows, key=lambda row: row[0])] for token, rows in due.items()}
        return settled, ordered

    def _on_its_way(self, lease_id: bytes) -> int:
        """Up to where the lease was sent to be settled, unless that failed for good or should have been seen by now."""
        sent = self._sent.get(lease_id)
        outcome = self._sender.latest(sent.name) if sent else None
        if sent is None or outcome is None or outcome.has_failed:
            return 0
        return 0 if outcome.has_ended and self._service.clock.now() >= sent.at + RESEND_S else sent.cumulative

    def _gas_cost(self) -> int:
        fees = self._client.fees()
        per_gas = (fees.max_fee - fees.tip) // 2 + fees.tip
        return (BASE_GAS + LEASE_GAS) * per_gas * self._policy.ether_price // WEI_PER_ETHER

    def _submit(self, token: str, batch: list[Signed[Voucher]]) -> str:
        return submit(self._client, self._sender, self._service.provider, token, batch)
