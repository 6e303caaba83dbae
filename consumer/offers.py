"""A provider's offer as the consumer sees it: fetched from the provider, believed as far as the chain confirms it."""

from dataclasses import dataclass
from typing import Any

import httpx

from consumer.endpoints import Endpoint
from consumer.exceptions import OfferMismatch, ProviderFailed
from consumer.tls import verification, wrong_key
from protocol.chain.client import ChainClient
from protocol.chain.views import LeaseOffer
from protocol.documents import model_fingerprint
from protocol.exceptions import InvalidDocument
from protocol.offer_text import MAX_OFFER_BYTES, parse_offer
from protocol.typed_data import Terms, hash_struct

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Offer:
    """One version of a provider's offer, checked against the registry."""

    provider: int
    offer_id: int
    version: int
    terms: Terms
    document: dict[str, Any]
    node_key: str

    @property
    def digest(self) -> bytes:
        """The terms digest."""
        return hash_struct(self.terms)

    @property
    def fingerprint(self) -> bytes:
        """What receipts must name as the model."""
        return model_fingerprint(self.document)

    @property
    def model_name(self) -> str:
        """The name to ask for."""
        return str(self.document["model"]["name"])

    @property
    def engine(self) -> str:
        """The name of what serves the model."""
        return str(self.document["model"]["engine"]["name"])


def fetch_offer(client: ChainClient, endpoint: Endpoint, provider: int, offer_id: int) -> Offer:
    """The current version of an offer. Raises OfferMismatch, ProviderFailed, ChainError."""
    on_chain, node_key = client.read([client.reads.offer(provider, offer_id), client.reads.node_key(provider)])
    if not on_chain.is_registered or not on_chain.is_open:
        raise OfferMismatch(f"provider {provider} has no open offer {offer_id}")
    text = _get(endpoint, f"/v1/offers/{offer_id}/{on_chain.version}")
    return read_offer(text, provider, offer_id, on_chain, node_key)


def read_offer(text: bytes, provider: int, offer_id: int, on_chain: LeaseOffer, node_key: str) -> Offer:
    """What a provider shows as its offer, if it is the one on chain. Raises OfferMismatch."""
    try:
        terms, document = parse_offer(text)
    except InvalidDocument as error:
        raise OfferMismatch(f"offer {offer_id} of provider {provider}: {error}") from error
    offer = Offer(provider, offer_id, on_chain.version, terms, document, node_key)
    if offer.digest != on_chain.terms_digest:
        raise OfferMismatch(f"the terms the provider shows for offer {offer_id} are not those on chain")
    return offer


def _get(endpoint: Endpoint, path: str) -> bytes:
    url = endpoint.url + path
    received = bytearray()
    try:
        with httpx.stream(
            "GET",
            url,
            headers={"Accept-Encoding": "identity"},
            timeout=TIMEOUT_S,
            verify=verification(endpoint.tls_pin),
        ) as answer:
            answer.raise_for_status()
            for piece in answer.iter_raw(16 * 1024):
                received += piece
                if len(received) > MAX_OFFER_BYTES:
                    raise ProviderFailed(f"{url} sent more than {MAX_OFFER_BYTES} bytes")
    except httpx.HTTPError as error:
        raise ProviderFailed(
            f"no usable offer from {url} ({wrong_key(error) or error}): check the address, or try later"
        ) from error
    return bytes(received)
