"""Which documents the chain names and nobody here has, and which addresses may have them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from indexer.store.database import Database
from protocol.address import to_address
from protocol.hashing import ZERO_BYTES32

MAX_WANTED = 1_000
"""Of each sort, in one round."""
MAX_ENDPOINTS = 4
"""Of one provider that are asked."""


@dataclass(frozen=True)
class WantedProvider:
    """A provider whose metadata is missing; `endpoints` are those of its last document here."""

    provider: int
    node_key: str
    digest: bytes
    endpoints: tuple[str, ...]


@dataclass(frozen=True)
class WantedOffer:
    """An open offer whose terms are missing; `endpoints` are its provider's."""

    provider: int
    offer_id: int
    version: int
    digest: bytes
    endpoints: tuple[str, ...]


def wanted_providers(database: Database) -> list[WantedProvider]:
    """Registered providers with metadata that is not here. Raises StoreError."""
    rows = database.execute(
        "SELECT p.provider, p.node_key, p.metadata_digest, (SELECT d.envelope FROM provider_document d "
        "WHERE d.provider = p.provider ORDER BY d.issued_at DESC LIMIT 1) FROM provider p "
        "WHERE p.is_registered AND p.metadata_digest <> ? AND NOT EXISTS "
        "(SELECT 1 FROM provider_document d WHERE d.digest = p.metadata_digest) "
        "ORDER BY p.registered_at DESC, p.provider LIMIT ?",
        [ZERO_BYTES32, MAX_WANTED],
    )
    return [
        WantedProvider(provider, to_address(bytes(node_key)), bytes(digest), _endpoints(envelope))
        for provider, node_key, digest, envelope in rows
    ]


def wanted_offers(database: Database) -> list[WantedOffer]:
    """Open offers of providers whose metadata is here, but not their terms. Raises StoreError."""
    rows = database.execute(
        "SELECT o.provider, o.offer_id, o.version, o.terms_digest, d.envelope FROM offer o "
        "JOIN provider p ON p.provider = o.provider JOIN provider_document d ON d.digest = p.metadata_digest "
        "WHERE o.is_open AND p.is_registered AND NOT EXISTS "
        "(SELECT 1 FROM offer_document t WHERE t.terms_digest = o.terms_digest) "
        "ORDER BY o.provider, o.offer_id LIMIT ?",
        [MAX_WANTED],
    )
    return [
        WantedOffer(provider, offer_id, version, bytes(digest), _endpoints(envelope))
        for provider, offer_id, version, digest, envelope in rows
    ]


def _endpoints(envelope: str | None) -> tuple[str, ...]:
    if envelope is None:
        return ()
    listed = json.loads(envelope)["document"]["endpoints"]
    return tuple(endpoint["url"].rstrip("/") for endpoint in listed[:MAX_ENDPOINTS])
