"""An offer on a real chain with nobody behind it, and the spending part of a gateway that opens leases of it."""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from consumer.config import ConsumerConfig
from consumer.endpoints import Endpoint
from consumer.offers import Offer
from consumer.records import Draft, Limits
from consumer.session import Session
from consumer.spending.running import Spending
from consumer.spending.settings import LeaseSettings
from protocol import keystore
from protocol.money import USDC, Money
from protocol.offer_text import terms_from_json, terms_to_json
from protocol.signing import Signer
from protocol.typed_data import NodeKey, Terms
from provider.offers import make_terms
from provider.owner import OfferLimits, Owner
from tests.support.engines import tiny_model
from tests.support.live_market import ETHER, PASSWORD, SCRYPT_N, LiveMarket, signer_of
from tests.support.provider_stack import make_offer

NODE = Signer(b"\x33" * 32)
_numbers = itertools.count()


@dataclass(frozen=True)
class Wanted:
    """An offer and where it is served."""

    offer: Offer
    endpoint: Endpoint

    def to_json(self) -> str:
        """For another process."""
        content = {**vars(self.offer), "terms": terms_to_json(self.offer.terms), "endpoint": self.endpoint.url}
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> "Wanted":
        """The reverse of `to_json`."""
        content = json.loads(text)
        endpoint = Endpoint(content.pop("endpoint"))
        return cls(Offer(**{**content, "terms": terms_from_json(content["terms"])}), endpoint)


class Stall:
    """One registered provider; its offers are made and changed by the test."""

    def __init__(self, market: LiveMarket) -> None:
        self.market = market
        market.call(1, "approve", "ClawToken", "approve", market.client.deployment.address("Staking"), 10_000 * ETHER)
        market.call(1, "stake", "Staking", "stake", 10_000 * ETHER)
        r, vs = NODE.sign(market.domain, NodeKey(signer_of(1).address)).compact()
        market.call(1, "register", "Registry", "register", NODE.address, r, vs, bytes(32))
        self.provider = market.client.get(market.client.reads.provider_of(signer_of(1).address))

    def publish(self, limits: OfferLimits | None = None, **terms: Any) -> Wanted:
        """A new offer."""
        found, document = self._terms(**terms)
        with self.market.sender("owner", 1) as sender:
            owner = Owner(self.market.client, sender, self.market.domain)
            offer_id, version = owner.create_offer(self.provider, found, limits or OfferLimits())
        return Wanted(
            Offer(self.provider, offer_id, version, found, document, NODE.address), Endpoint("http://127.0.0.1:9")
        )

    def change(self, wanted: Wanted) -> Wanted:
        """The offer at another price."""
        terms = replace(wanted.offer.terms, price_out=wanted.offer.terms.price_out + 1)
        with self.market.sender("owner", 1) as sender:
            owner = Owner(self.market.client, sender, self.market.domain)
            version = owner.update_offer(
                f"change-{next(_numbers)}", self.provider, wanted.offer.offer_id, terms, OfferLimits()
            )
        return Wanted(replace(wanted.offer, terms=terms, version=version), wanted.endpoint)

    def _terms(self, **terms: Any) -> tuple[Terms, dict[str, Any]]:
        document = make_offer().document
        prices = {"price_in": 10, "price_out": 30 + next(_numbers), "price_cached": 5, "unit_scale": 1}
        return make_terms(document, **{"token": self.market.token, **prices, **terms}), document

    @property
    def opened(self) -> int:
        """How many leases the consumer ever opened."""
        return self.market.client.nonce(signer_of(2).address)

    @property
    def account(self) -> int:
        """What the consumer has free."""
        return self.market.client.account(signer_of(2).address, self.market.token)


def config_of(market: LiveMarket, folder: Path, rpc: str = "", **leases: Any) -> ConsumerConfig:
    """The configuration in a folder of its own, its keystore the consumer's."""
    folder.mkdir(exist_ok=True)
    if not (folder / "owner.json").exists():
        keystore.save(folder / "owner.json", signer_of(2), PASSWORD, scrypt_n=SCRYPT_N)
    return ConsumerConfig(
        rpc=[rpc or market.node.url],
        deployment=market.deployment_file,
        data=folder / "data",
        owner_key=folder / "owner.json",
        tokenizers=[tiny_model()],
        leases=LeaseSettings(**leases),
    )


@asynccontextmanager
async def running(config: ConsumerConfig) -> AsyncIterator[Spending]:
    """One run of a gateway's spending part."""
    session = Session(config, PASSWORD, SCRYPT_N)
    try:
        spending = Spending(session, config)
        await spending.start()
        try:
            yield spending
        finally:
            await spending.stop()
    finally:
        session.close()


def usdc(text: str) -> int:
    """Base units."""
    return Money.parse(text, USDC).units


def draft(cost: int, key_id: str = "") -> Draft:
    """A request that may cost this much."""
    return Draft(b"{}", bytes(32), bytes(32), cost, 0, Limits(1, 1, 1), key_id)
