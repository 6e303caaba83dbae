"""The part of a provider that deals with the chain, on a real chain: ledger, settling and anchoring, no engine."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from protocol.chain.client import ChainClient
from protocol.chain.clock import MarketClock
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.headers import Signed
from protocol.ids import lease_id_of
from protocol.signing import Signer
from protocol.typed_data import OpenLease, Receipt, Terms, Voucher
from provider.exposure import CreditPolicy
from provider.leases import LeaseCache
from provider.ledger import AdmittedRequest, Ledger
from provider.market import Market
from provider.models.pool import ModelPool
from provider.offers import OfferBook
from provider.owner import OfferLimits, Owner
from provider.service import InferenceService, ServiceSettings
from tests.support.live_market import ETHER, LiveMarket, signer_of
from tests.support.promised import PROMISED
from tests.support.provider_stack import make_offer

SESSION = Signer(b"\x22" * 32)
_numbers = itertools.count(1)


@dataclass
class ChainProvider:
    """A registered provider with one offer. `operator` pays for its transactions."""

    market: LiveMarket
    number: int
    provider: int
    offer_id: int
    node: Signer
    service: InferenceService
    chain: Market
    sender: TransactionSender
    _seqs: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def client(self) -> ChainClient:
        return self.market.client

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    def open_lease(self, deposit: int = 1_000_000, *, duration_s: int = 86_400) -> bytes:
        """A lease of the consumer's, in a block; returns its id."""
        owner = signer_of(2).address
        head = self.client.head()
        offer = self.client.offer(self.provider, self.offer_id)
        request = OpenLease(
            owner=owner,
            provider=self.provider,
            offer_id=self.offer_id,
            version=1,
            token=self.market.token,
            amount=deposit,
            signer=SESSION.address,
            expiry=head.timestamp + duration_s,
            close_delay=3_600,
            terms_digest=offer.terms_digest,
            nonce=self.client.nonce(owner),
            deadline=head.timestamp + 3_600,
        )
        lease_id = lease_id_of(self.market.domain, request)
        self.market.call(2, f"open:{lease_id.hex()}", "LeaseEscrow", "open_lease", request, b"")
        return lease_id

    def take_voucher(self, lease_id: bytes, cumulative: int) -> Signed[Voucher]:
        """A voucher, as if it had come over the side channel."""
        voucher = Voucher(lease_id, cumulative)
        signed = Signed(voucher, SESSION.sign(self.market.domain, voucher))
        self.ledger.record_voucher(signed, signer_of(2).address, self.client.head().timestamp)
        return signed

    def serve(self, lease_id: bytes, mark: int = 5) -> None:
        """One final receipt in the ledger."""
        seq = next(self._seqs)
        voucher = Voucher(lease_id, 0)
        request = AdmittedRequest(lease_id, seq, bytes([mark]) * 32, 10, 1)
        self.ledger.admit(request, Signed(voucher, SESSION.sign(self.market.domain, voucher)), signer_of(2).address, 1)
        receipt = Receipt(lease_id, seq, 0, True, 1, 1, 0, 0, bytes([mark]) * 32, bytes(32), 0, 0, 1, bytes(32))
        self.ledger.record_receipt(Signed(receipt, self.node.sign(self.market.domain, receipt)))

    def reopen_ledger(self, path: Path) -> None:
        """Goes on with another ledger file."""
        self.ledger.close()
        self.service.ledger = Ledger(path, self.market.domain, self.provider)


@asynccontextmanager
async def chain_provider(market: LiveMarket, folder: Path) -> AsyncIterator[ChainProvider]:
    """A new provider with an owner, node key and operator of its own."""
    number = next(_numbers)
    owner = owner_of(number)
    node, operator = Signer(bytes([0x40 + number]) * 32), Signer(bytes([0x60 + number]) * 32)
    for address in (owner.address, operator.address):
        market.node.set_balance(address, ETHER)
    market.call(0, f"stake-{number}", "ClawToken", "transfer", owner.address, 10_000 * ETHER)
    offer = make_offer_on(market)
    with TransactionSender(market.client, owner, folder / "owner.sqlite", SenderPolicy(poll_s=0.02)) as sender:
        account = Owner(market.client, sender, market.domain)
        account.stake(10_000 * ETHER)
        provider = account.register(node)
        offer_id, _ = account.create_offer(provider, offer, OfferLimits())
    chain = Market(market.client, MarketClock())
    sender = TransactionSender(market.client, operator, folder / "operator.sqlite", SenderPolicy(poll_s=0.02))
    service = InferenceService(
        domain=market.domain,
        provider=provider,
        signer=node,
        ledger=Ledger(folder / "ledger.sqlite", market.domain, provider),
        leases=LeaseCache(chain.lease, 0.0),
        offers=OfferBook(folder / "offers"),
        backends=ModelPool({}, 0),
        clock=chain.clock,
        sandbox=PROMISED,
        settings=ServiceSettings(CreditPolicy(2_000)),
    )
    found = ChainProvider(market, number, provider, offer_id, node, service, chain, sender)
    try:
        yield found
    finally:
        await service.stop()
        sender.close()
        found.ledger.close()


def owner_of(number: int) -> Signer:
    """The owner of the provider with this number."""
    return Signer(bytes([0x20 + number]) * 32)


def make_offer_on(market: LiveMarket) -> Terms:
    """Terms in the market's token."""
    return replace(make_offer().terms, token=market.token)
