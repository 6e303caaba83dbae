"""Providers, their keys and offers, and their anchors."""

from sqlmodel import SQLModel

from indexer.store.columns import binary, flag, number, uint256
from indexer.store.tables.event import EventRow


class Provider(SQLModel, table=True):
    """`leases_end` is when its leases end at the latest, once it is deregistered."""

    __tablename__ = "provider"

    provider: int = number(key=True)
    owner: bytes = binary(index=True)
    node_key: bytes = binary()
    metadata_digest: bytes = binary()
    offer_count: int = number()
    is_registered: bool = flag()
    registered_at: int = number()
    leases_end: int | None = number(nullable=True)


class NodeKey(SQLModel, table=True):
    """`valid_until` is 2**40 - 1 while the key is in force."""

    __tablename__ = "node_key"

    node_key: bytes = binary(key=True)
    provider: int = number()
    valid_from: int = number()
    valid_until: int = number()


class Offer(SQLModel, table=True):
    """An offer in its newest version."""

    __tablename__ = "offer"

    provider: int = number(key=True)
    offer_id: int = number(key=True)
    version: int = number()
    is_open: bool = flag()
    kind: int = number()
    token: bytes = binary()
    terms_digest: bytes = binary()
    min_deposit: int = uint256()
    max_duration: int = number()
    close_delay_min: int = number()
    close_delay_max: int = number()
    max_active: int = number()
    active_leases: int = number()


class OfferVersion(EventRow, table=True):
    """Every version an offer had."""

    __tablename__ = "offer_version"

    provider: int = number()
    offer_id: int = number()
    version: int = number()
    kind: int = number()
    token: bytes = binary()
    terms_digest: bytes = binary()
    min_deposit: int = uint256()
    max_duration: int = number()
    close_delay_min: int = number()
    close_delay_max: int = number()
    max_active: int = number()


class OfferSwitch(EventRow, table=True):
    """An offer was opened or paused."""

    __tablename__ = "offer_switch"

    provider: int = number()
    offer_id: int = number()
    is_open: bool = flag()


class Deregistration(EventRow, table=True):
    """A provider's end: its offers can no longer be leased."""

    __tablename__ = "deregistration"

    provider: int = number()
    owner: bytes = binary()


class LatestAnchor(SQLModel, table=True):
    """The anchor in force."""

    __tablename__ = "latest_anchor"

    provider: int = number(key=True)
    count: int = uint256()
    root: bytes = binary()
    anchored_at: int = number()


class Anchor(EventRow, table=True):
    """Every accepted anchor, with its signature."""

    __tablename__ = "anchor"

    provider: int = number()
    count: int = uint256()
    root: bytes = binary()
    r: bytes = binary()
    vs: bytes = binary()


class AnchorSkip(EventRow, table=True):
    """A stale or bad anchor; `reason` as in UsageAnchor."""

    __tablename__ = "anchor_skip"

    provider: int = number()
    count: int = uint256()
    reason: int = uint256()


STATES = (Provider, NodeKey, Offer, LatestAnchor)
EVENTS = (OfferVersion, OfferSwitch, Deregistration, Anchor, AnchorSkip)
