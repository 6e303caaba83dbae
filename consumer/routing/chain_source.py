"""Offers of providers whose addresses are known: found at the addresses, believed as far as the chain confirms.

An address says who it is by its signed metadata, or on this machine by its word; the registry says whether that
provider exists, which document and which offers are its own. The address that is used is the known one, be it
configured or listed by an indexer: a document may only confirm it, so that no provider can send requests elsewhere.
What the chain still confirms is not fetched again, so an offer stays known while its server is away.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from consumer.endpoints import Endpoint
from consumer.exceptions import ConsumerError, OfferMismatch
from consumer.offers import Offer, read_offer
from consumer.routing.catalogue import Candidate
from consumer.routing.fetching import fetch
from consumer.routing.indexed_addresses import IndexedAddresses
from consumer.tls import unchecked_context, verification
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ContractReverted
from protocol.chain.views import LeaseOffer
from protocol.documents import DocumentType, check_document, open_envelope, parse_document
from protocol.exceptions import InvalidDocument
from protocol.hashing import ZERO_BYTES32
from protocol.ids import OfferKind
from protocol.offer_text import MAX_OFFER_BYTES
from protocol.typed_data import Domain

MAX_OFFERS = 64
"""Of one provider; more are not looked at."""
_MAX_HEALTH_BYTES = 4096
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_KINDS = frozenset({OfferKind.INFERENCE, OfferKind.EMBEDDING})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Provider:
    """Who answers at an address, as the chain confirmed it. `digest` is zero for one without metadata."""

    number: int
    digest: bytes
    node_key: str
    endpoint: Endpoint
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class _State:
    """What the registry says of a provider."""

    owner: str
    is_registered: bool
    digest: bytes
    node_key: str
    offers: int


class ChainOffers:
    """The offers behind the configured `urls` and those that `indexed` lists; the client's calls run in threads."""

    def __init__(self, client: ChainClient, domain: Domain, urls: Sequence[str], indexed: IndexedAddresses) -> None:
        self._client = client
        self._domain = domain
        self._urls = [url.rstrip("/") for url in urls]
        self._indexed = indexed
        self._providers: dict[str, _Provider] = {}
        self._offers: dict[tuple[int, int], Offer] = {}
        self._missed: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether every configured address with its offers, and every indexer, could be read the last time."""
        return not self._missed and self._indexed.is_complete

    async def candidates(self) -> list[Candidate]:
        """What the chain confirms now. Raises ChainError when it cannot be asked."""
        now = (await asyncio.to_thread(self._client.head)).timestamp
        listed = [url for url in await self._indexed.urls() if url not in self._urls]
        missed, unusable = set[str](), set[str]()
        found = await asyncio.gather(
            *(self._behind(url, now, missed) for url in self._urls),
            *(self._behind(url, now, unusable) for url in listed),
        )
        for what in sorted(missed - self._missed):
            _log.warning("not offered here for now: %s", what)
        self._missed = missed
        return [candidate for candidates in found for candidate in candidates]

    async def _behind(self, url: str, now: int, missed: set[str]) -> list[Candidate]:
        try:
            async with AsyncExitStack() as stack:
                provider, state = await self._provider(url, now, stack)
                stake = await asyncio.to_thread(
                    self._client.get, self._client.reads.view("Staking", "active_stake", state.owner)
                )
                http = await stack.enter_async_context(_http(provider.endpoint.tls_pin))
                offers = await self._offers_of(provider, state, http, missed)
        except (ConsumerError, ContractReverted) as error:
            missed.add(f"{url}: {error}")
            return []
        return [Candidate(offer, provider.endpoint, state.owner, stake, provider.metadata) for offer in offers]

    async def _provider(self, url: str, now: int, stack: AsyncExitStack) -> tuple[_Provider, _State]:
        """Who is at an address now. Raises ConsumerError, ChainError."""
        known = self._providers.get(url)
        if known is not None:
            state = await asyncio.to_thread(self._state, known.number)
            if (state.digest, state.node_key) == (known.digest, known.node_key):
                return _current(known, now), state
        http = await stack.enter_async_context(_http())
        text, number = await self._identity(http, url)
        state = await asyncio.to_thread(self._state, number)
        if not state.is_registered:
            raise OfferMismatch(f"provider {number} is not registered")
        if state.digest == ZERO_BYTES32:
            if not _is_local(url):
                raise OfferMismatch(f"provider {number} published no metadata")
            found = _Provider(number, state.digest, state.node_key, Endpoint(url))
        else:
            found = await asyncio.to_thread(self._opened, url, text, number, state)
        self._providers[url] = found
        return _current(found, now), state

    async def _identity(self, http: httpx.AsyncClient, url: str) -> tuple[bytes, int]:
        """The metadata an address shows (empty if it has none), and the provider it claims to be."""
        try:
            text = await fetch(http, f"{url}/v1/provider", DocumentType.ENVELOPE.max_text_bytes)
        except ConsumerError:
            if not _is_local(url):
                raise
            return b"", _claimed(await fetch(http, f"{url}/healthz", _MAX_HEALTH_BYTES))
        return text, await asyncio.to_thread(self._signer, text)

    def _signer(self, text: bytes) -> int:
        """The provider whose node key a still unchecked document names."""
        try:
            document = parse_document(DocumentType.ENVELOPE, text)["document"]
            check_document(DocumentType.PROVIDER, document)
        except InvalidDocument as error:
            raise OfferMismatch(f"its metadata is malformed: {error}") from error
        number = self._client.get(self._client.reads.key_record(document["node_key"])).provider
        if number == 0:
            raise OfferMismatch("its metadata is by a key that no provider has")
        return number

    def _opened(self, url: str, text: bytes, number: int, state: _State) -> _Provider:
        try:
            document = open_envelope(self._domain, text, state.node_key, state.digest)
        except InvalidDocument as error:
            raise OfferMismatch(f"it shows other metadata than the registry has: {error}") from error
        for endpoint in document["endpoints"]:
            if endpoint["url"].rstrip("/") == url:
                place = Endpoint(url, endpoint.get("tls_spki_sha256", ""))
                return _Provider(number, state.digest, state.node_key, place, document)
        raise OfferMismatch(f"provider {number} does not list this address")

    def _state(self, number: int) -> _State:
        reads = self._client.reads
        return _State(
            *self._client.read(
                [
                    reads.owner_of(number),
                    reads.view("Registry", "is_registered", number),
                    reads.metadata_digest(number),
                    reads.node_key(number),
                    reads.view("Registry", "offer_count", number),
                ]
            )
        )

    async def _offers_of(
        self, provider: _Provider, state: _State, http: httpx.AsyncClient, missed: set[str]
    ) -> list[Offer]:
        if not state.is_registered:
            return []
        ids = _offer_ids(provider, state)
        reads = [self._client.reads.offer(provider.number, offer_id) for offer_id in ids]
        on_chain: list[LeaseOffer] = await asyncio.to_thread(self._client.read, reads)
        wanted = [
            (offer_id, offer)
            for offer_id, offer in zip(ids, on_chain, strict=True)
            if offer.is_open and offer.is_registered and offer.kind in _KINDS
        ]
        found = await asyncio.gather(*(self._offer(provider, *each, http, missed) for each in wanted))
        return [offer for offer in found if offer is not None]

    async def _offer(
        self, provider: _Provider, offer_id: int, on_chain: LeaseOffer, http: httpx.AsyncClient, missed: set[str]
    ) -> Offer | None:
        key = (provider.number, offer_id)
        known = self._offers.get(key)
        if known is not None and (known.version, known.digest) == (on_chain.version, on_chain.terms_digest):
            return replace(known, node_key=provider.node_key)
        url = f"{provider.endpoint.url}/v1/offers/{offer_id}/{on_chain.version}"
        try:
            text = await fetch(http, url, MAX_OFFER_BYTES)
            found = await asyncio.to_thread(read_offer, text, *key, on_chain, provider.node_key)
        except ConsumerError as error:
            missed.add(f"offer {offer_id} of provider {provider.number}: {error}")
            return None
        self._offers[key] = found
        return found


def _current(provider: _Provider, now: int) -> _Provider:
    if provider.metadata is not None and provider.metadata["expires_at"] <= now:
        raise OfferMismatch(f"the metadata of provider {provider.number} has expired: it must publish again")
    return provider


def _offer_ids(provider: _Provider, state: _State) -> list[int]:
    if provider.metadata is None:
        return list(range(1, min(state.offers, MAX_OFFERS) + 1))
    return sorted({model["offer_id"] for model in provider.metadata["models"]})[:MAX_OFFERS]


def _is_local(url: str) -> bool:
    return urlsplit(url).scheme == "http" and urlsplit(url).hostname in _LOOPBACK


def _claimed(text: bytes) -> int:
    """The provider's number in what `/healthz` answers; whether it is true shows by its offers."""
    try:
        number = json.loads(text)["provider"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise OfferMismatch("it does not say which provider it is") from error
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**32:
        raise OfferMismatch("it does not say which provider it is")
    return number


def _http(pin: str | None = None) -> httpx.AsyncClient:
    """Without `pin` for what proves itself, otherwise for the pinned key ("": the system's authorities)."""
    verify = unchecked_context() if pin is None else verification(pin)
    return httpx.AsyncClient(verify=verify, timeout=10.0, trust_env=False)
