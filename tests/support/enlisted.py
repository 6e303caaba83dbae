"""Providers of tests on a real chain: registered, with stake and an offer of the tiny model, and nobody behind it."""

import itertools

from protocol.signing import Signer
from protocol.typed_data import NodeKey
from provider.offers import Offer, make_terms
from provider.owner import OfferLimits, Owner
from tests.support.live_market import ETHER, LiveMarket, signer_of
from tests.support.lying_provider import Identity
from tests.support.provider_stack import make_offer

_numbers = itertools.count(1)


def enlist(market: LiveMarket, owner: int = 1, **terms: int) -> Identity:
    """A new provider of a development account's: 1, or one of `MORE_PROVIDERS`. `terms` as `make_offer` takes them."""
    node = Signer(bytes([0xC0 + next(_numbers)]) * 32)
    staking = market.client.deployment.address("Staking")
    market.call(owner, "approve", "ClawToken", "approve", staking, 10_000 * ETHER)
    market.call(owner, "stake", "Staking", "stake", 10_000 * ETHER)
    proof = node.sign(market.domain, NodeKey(signer_of(owner).address)).compact()
    market.call(owner, "register", "Registry", "register", node.address, *proof, bytes(32))
    provider = market.client.get(market.client.reads.provider_of(signer_of(owner).address))
    document = make_offer().document
    prices = {"price_in": 10, "price_out": 30, "price_cached": 5, "unit_scale": 1, **terms}
    offered = make_terms(document, token=market.token, **prices)
    with market.sender(f"owner-{owner}", owner) as sender:
        offer_id, version = Owner(market.client, sender, market.domain).create_offer(provider, offered, OfferLimits())
    return Identity(market.domain, provider, node, Offer(offer_id, version, offered, document))
