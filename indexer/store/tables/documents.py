"""Documents that are found by digest: a cache, not derived from events. Deleting it loses nothing for good.

What is here was checked against the digest when it was stored; whether a digest is still in force is for the readers
to ask the tables `provider` and `offer`.
"""

from sqlmodel import SQLModel

from indexer.store.columns import binary, number, text, uint256


class ProviderDocument(SQLModel, table=True):
    """A provider's metadata in its signed envelope, as text. It counts only while `node_key` is the provider's."""

    __tablename__ = "provider_document"

    digest: bytes = binary(key=True)
    provider: int = number()
    node_key: bytes = binary()
    issued_at: int = number()
    expires_at: int = number()
    name: str | None = text(nullable=True)
    tier: str = text()
    region: str = text()
    envelope: str = text()
    fetched_at: int = number()


class OfferDocument(SQLModel, table=True):
    """An offer's numeric terms, by their digest, and the terms document they name, as canonical JSON.

    Prices are base units of `token` per `unit_scale` units. `model` and `fingerprint` are null for kinds without one.
    """

    __tablename__ = "offer_document"

    terms_digest: bytes = binary(key=True)
    kind: int = number()
    token: bytes = binary()
    model: str | None = text(nullable=True)
    fingerprint: bytes | None = binary(nullable=True)
    price_in: int = uint256()
    price_out: int = uint256()
    price_cached: int = uint256()
    unit_scale: int = uint256()
    sla_ttft_ms: int = number()
    sla_milli_tokens_per_s: int = number()
    sla_credit_bps: int = number()
    period: int = number()
    tier: str = text()
    region: str = text()
    document: str = text()
    fetched_at: int = number()


CACHES = (ProviderDocument, OfferDocument)
