"""A whole provider in the test's event loop: real engine, ledger and HTTP; only the chain is a dictionary."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from protocol.address import to_address
from protocol.ids import lease_id
from protocol.signing import Signer
from protocol.typed_data import Domain, Terms
from provider.api import create_app
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.exposure import CreditPolicy
from provider.guard import EdgeGate, GuardLimits
from provider.leases import Lease, LeaseCache
from provider.ledger import Ledger
from provider.model_card import ENGINE_NAME, describe_model, engine_build
from provider.models.pool import ModelPool, PooledModel, Server, key_of
from provider.offers import Offer, OfferBook, make_document, make_terms
from provider.service import InferenceService, ServiceSettings
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.promised import PROMISED
from tests.support.serving import serve
from tests.support.tiny_gguf import CONTEXT, NAME

DOMAIN = Domain(31337, "0x5FC8d32690cc91D4c39d9d3abcBD16989F875707")
TOKEN = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
OWNER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
PROVIDER = 7
DEPOSIT = 1_000_000
NODE = Signer(b"\x11" * 32)
SESSION = Signer(b"\x22" * 32)


class TestClock:
    """The machine's clock, shifted."""

    __test__ = False

    def __init__(self) -> None:
        self.shift = 0

    def now(self) -> int:
        return int(time.time()) + self.shift

    def block_time(self) -> int:
        return self.now()


def make_offer(context: int = CONTEXT, **terms: int) -> Offer:
    """An offer of the tiny model: 10 base units a token in, 30 out, 5 cached."""
    entry = describe_model(tiny_model(context), NAME)
    model = entry.terms_model(engine=ENGINE_NAME, build=engine_build(), context_length=context)
    document = make_document(model, max_units_in=context, max_units_out=context, max_concurrent=4, sandbox=PROMISED)
    prices: dict[str, int] = {"price_in": 10, "price_out": 30, "price_cached": 5, "unit_scale": 1, **terms}
    return Offer(1, 1, make_terms(document, token=TOKEN, **prices), document)


def make_lease(terms: Terms, nonce: int = 0, **changes: object) -> Lease:
    """A lease on PROVIDER's offer 1, an hour long."""
    digest = Offer(1, 1, terms, {}).digest
    now = int(time.time())
    lease = Lease(
        lease_id=lease_id(
            chain_id=DOMAIN.chain_id,
            escrow=DOMAIN.escrow,
            owner=OWNER,
            nonce=nonce,
            provider=PROVIDER,
            offer_id=1,
            version=1,
            signer=SESSION.address,
            terms_digest=digest,
        ),
        owner=OWNER,
        provider=PROVIDER,
        offer_id=1,
        version=1,
        token=TOKEN,
        signer=SESSION.address,
        deposit=DEPOSIT,
        settled=0,
        expiry=now + 3_600,
        closes_at=now + 7_200,
        fee_bps=500,
        is_closing=False,
        is_revoked=False,
        is_released=False,
    )
    return replace(lease, **changes)  # type: ignore[arg-type]


@dataclass
class ProviderStack:
    """What a test may look at and change."""

    service: InferenceService
    engine: EngineClient
    ledger: Ledger
    clock: TestClock
    offer: Offer
    url: str
    leases: dict[bytes, Lease] = field(default_factory=dict)

    def add_lease(self, nonce: int | None = None, **changes: object) -> Lease:
        """Opens a lease "on chain", a new one of a new owner unless told otherwise."""
        nonce = len(self.leases) if nonce is None else nonce
        owner = to_address((nonce + 1).to_bytes(20, "big"))
        lease = make_lease(self.offer.terms, nonce, **{"owner": owner, **changes})
        self.leases[lease.lease_id] = lease
        return lease


@asynccontextmanager
async def provider_stack(
    folder: Path,
    *,
    credit: int = 2_000,
    chunk_tokens: int = 8,
    voucher_timeout_s: float = 2.0,
    offer: Offer | None = None,
    guard: GuardLimits | None = None,
    backend: Server | None = None,
    **settings: Any,
) -> AsyncIterator[ProviderStack]:
    """Runs a provider until the end of the block; `folder` holds its ledger and offers, and may be one used before.

    Without `guard` nothing stands between clients and the application; without `backend` the tiny model's engine
    serves.
    """
    offer = offer or make_offer()
    book = OfferBook(folder / "offers")
    book.add(offer)
    leases: dict[bytes, Lease] = {}

    async def fetch(wanted: bytes) -> Lease | None:
        return leases.get(wanted)

    clock = TestClock()
    ledger = Ledger(folder / "ledger.sqlite", DOMAIN, PROVIDER)
    engine = EngineClient(EngineSettings(tiny_model(), threads=1, parallel=4), BareHost())
    models = ModelPool({key_of(offer): PooledModel(offer.model_name, 1, lambda: None, lambda: backend or engine)}, 1)
    service = InferenceService(
        domain=DOMAIN,
        provider=PROVIDER,
        signer=NODE,
        ledger=ledger,
        leases=LeaseCache(fetch, 0.0),
        offers=book,
        backends=models,
        clock=clock,
        sandbox=PROMISED,
        settings=ServiceSettings(
            CreditPolicy(credit), chunk_tokens=chunk_tokens, voucher_timeout_s=voucher_timeout_s, **settings
        ),
    )
    with hold_engine_slots(1):
        await models.start()
        await service.recover()
        app: ASGIApp = create_app(service)
        if guard is not None:
            app = EdgeGate(app, domain=DOMAIN, known_lease=service.leases.known, limits=guard)
        async with serve(app, guard) as url:
            yield ProviderStack(service, engine, ledger, clock, offer, url, leases)
        await service.stop()
        await models.stop()
        ledger.close()
