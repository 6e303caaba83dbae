"""Making and changing offers: prices to terms, the registry first, then the file the worker serves from.

Interrupted between the two, the same command finds what the registry has and writes the file.
"""

import dataclasses
import secrets
from typing import Any

from protocol.chain.client import ChainClient
from protocol.chain.deployments import Deployment
from protocol.documents import document_digest
from protocol.models import ModelEntry
from protocol.money import CLAW, USDC, Money, Price, Token, parse_price
from protocol.sandboxes import SandboxTier
from protocol.typed_data import Terms, hash_struct
from provider.exceptions import ConfigError
from provider.isolation import sandbox_for
from provider.model_card import ENGINE_NAME, engine_build
from provider.offers import Offer, OfferBook, make_document, make_terms
from provider.owner import OfferLimits, Owner
from provider.payout import TOKEN_CONTRACTS

SERVED_CONTEXT = 4096
MIN_DEPOSIT = "0.1"
"""Of the offer's token: what a lease must lock up, fifty times the credit given to a stranger."""


def terms_for(
    deployment: Deployment,
    entry: ModelEntry,
    price_in: str,
    price_out: str,
    found: SandboxTier,
    engine: str = ENGINE_NAME,
) -> tuple[Terms, dict[str, Any], OfferLimits]:
    """Terms, document and limits of an inference offer by our engine or FOREIGN_ENGINE; cached input costs half.

    `found` is what the sandbox's probe found here. Raises ConfigError, InvalidField.
    """
    first, second = common_scale(parse_price(price_in), parse_price(price_out))
    context = min(entry.context_length, SERVED_CONTEXT)
    model = entry.terms_model(engine=engine, build=engine_build(engine), context_length=context)
    document = make_document(
        model, max_units_in=context, max_units_out=context, max_concurrent=8, sandbox=sandbox_for(engine, found)
    )
    terms = make_terms(
        document,
        token=deployment.address(TOKEN_CONTRACTS[first.token]),
        price_in=first.price,
        price_out=second.price,
        price_cached=first.price // 2,
        unit_scale=first.unit_scale,
    )
    return terms, document, OfferLimits(min_deposit=Money.parse(MIN_DEPOSIT, first.token).units)


def common_scale(first: Price, second: Price) -> tuple[Price, Price]:
    """Both prices per the same number of tokens. Raises ConfigError if they are not of inference, or in two tokens."""
    if first.token != second.token:
        raise ConfigError("prices of input and output must be in the same token")
    if first.unit != "token" or second.unit != "token":
        raise ConfigError("prices of inference are per token, e.g. '0.01 USDC per 1K tokens'")
    scale = max(first.unit_scale, second.unit_scale)
    return first.rescaled(scale), second.rescaled(scale)


def token_of(deployment: Deployment, terms: Terms) -> Token:
    """The token an offer is priced in."""
    return CLAW if terms.token == deployment.address(TOKEN_CONTRACTS[CLAW]) else USDC


def publish_offer(
    owner: Owner, provider: int, book: OfferBook, terms: Terms, document: dict[str, Any], limits: OfferLimits
) -> tuple[Offer, bool]:
    """The offer with these terms, and whether it is new. Raises ChainError."""
    known = next((offer for offer in book.all() if offer.digest == hash_struct(terms)), None)
    if known is not None:
        return known, False
    offer_id, version = owner.create_offer(provider, terms, limits)
    offer = Offer(offer_id, version, terms, document)
    book.add(offer)
    return offer, True


def reprice(
    client: ChainClient,
    owner: Owner,
    provider: int,
    book: OfferBook,
    offer_id: int,
    price_in: str,
    price_out: str,
    found: SandboxTier,
) -> Offer:
    """A new version of an offer at these prices, in the sandbox found now; open leases keep their terms.

    Raises ConfigError, ChainError."""
    current = find(book, offer_id)
    first, second = common_scale(parse_price(price_in), parse_price(price_out))
    if client.deployment.address(TOKEN_CONTRACTS[first.token]) != current.terms.token:
        raise ConfigError(f"offer {offer_id} is priced in another token: publish a new offer for {first.token.symbol}")
    document = {**current.document, "sandbox": sandbox_for(current.document["model"]["engine"]["name"], found).value}
    terms = dataclasses.replace(
        current.terms,
        doc_hash=document_digest(document),
        price_in=first.price,
        price_out=second.price,
        price_cached=first.price // 2,
        unit_scale=first.unit_scale,
    )
    on_chain = client.offer(provider, offer_id)
    version = on_chain.version
    if on_chain.terms_digest != hash_struct(terms):
        limits = owner.offer_limits(provider, offer_id)
        version = owner.update_offer(secrets.token_hex(8), provider, offer_id, terms, limits)
    offer = Offer(offer_id, version, terms, document)
    book.add(offer)
    return offer


def find(book: OfferBook, offer_id: int) -> Offer:
    """The latest version of an offer. Raises ConfigError."""
    found = next((offer for offer in book.current() if offer.offer_id == offer_id), None)
    if found is None:
        raise ConfigError(f"there is no offer {offer_id} here: `clawmarket provider offers` lists them")
    return found
