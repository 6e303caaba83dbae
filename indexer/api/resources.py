"""What the API serves: the one description from which REST routes, OpenAPI, GraphQL types and paging are made.

A table that is not described here is served under its name and an "s", filtered and ordered by its key alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from indexer.api.columns import Column, columns_of
from indexer.store.shapes import Model, shape_of
from indexer.store.tables import (
    EVENTS,
    STATES,
    RawLog,
    UnknownEvent,
    daily,
    documents,
    escrow,
    params,
    registry,
    staking,
    tokens,
)
from indexer.store.tables.event import EventRow


@dataclass(frozen=True)
class Link:
    """Rows of the resource `to` whose columns equal this row's: `{their column: this one's}`."""

    to: str
    on: Mapping[str, str]

    def is_single(self, target: Resource) -> bool:
        """Whether there can be only one such row."""
        return set(self.on) == set(target.key)


@dataclass(frozen=True, eq=False)
class Resource:
    """A table under a name in the plural. Its key and `filters` can be filtered by, numbers with `_min` and `_max` too.

    Rows can be had in the order of their key or of one of `sorts`, both ways; `newest_first` turns the default order.
    Those of a cache change without a new block, too.
    """

    name: str
    singular: str
    model: Model
    filters: tuple[str, ...] = ()
    sorts: tuple[str, ...] = ()
    newest_first: bool = False
    is_cache: bool = False
    links: Mapping[str, Link] = field(default_factory=dict)

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """By name, in the table's order."""
        return {column.name: column for column in columns_of(self.model)}

    @cached_property
    def table(self) -> str:
        """The table's name."""
        return shape_of(self.model).name

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The columns that name one row."""
        return shape_of(self.model).key

    @cached_property
    def filterable(self) -> tuple[Column, ...]:
        """The columns that can be filtered by."""
        return tuple(self.columns[name] for name in dict.fromkeys((*self.key, *self.filters)))

    @cached_property
    def summary(self) -> str:
        """One line of what a row is."""
        return (self.model.__doc__ or "").strip().partition("\n")[0]

    @cached_property
    def orders(self) -> Mapping[str, tuple[str, ...]]:
        """The columns each accepted value of `sort` orders by, the default first; "-" is descending."""
        plain = dict.fromkeys((self.key[0], *self.sorts))
        columns = {name: (name, *(part for part in self.key if part != name)) for name in plain}
        signs = ("-", "") if self.newest_first else ("", "-")
        return {f"{sign}{name}": columns[name] for name in plain for sign in signs}


def _event(name: str, singular: str, model: Model, *filters: str, links: Mapping[str, Link] | None = None) -> Resource:
    log = Link("logs", {"block_number": "block_number", "log_index": "log_index"})
    return Resource(
        name,
        singular,
        model,
        filters=("block_number", "block_time", *filters),
        newest_first=True,
        links={"logs": log, **(links or {})},
    )


_OF_PROVIDER = {"provider": "provider"}
_OF_LEASE = {"lease_id": "lease_id"}
_TO_LEASE = {"lease": Link("leases", _OF_LEASE)}

_DESCRIBED: tuple[Resource, ...] = (
    Resource(
        *("providers", "provider", registry.Provider),
        filters=("owner", "node_key", "is_registered", "registered_at"),
        sorts=("registered_at", "offer_count"),
        links={
            "offers": Link("offers", _OF_PROVIDER),
            "leases": Link("leases", _OF_PROVIDER),
            "node_keys": Link("node_keys", _OF_PROVIDER),
            "latest_anchor": Link("latest_anchors", _OF_PROVIDER),
            "earnings": Link("earnings", _OF_PROVIDER),
            "stake": Link("stakes", {"account": "owner"}),
            "document": Link("provider_documents", {"digest": "metadata_digest"}),
            "daily_usage": Link("daily_usage", _OF_PROVIDER),
        },
    ),
    Resource("node_keys", "node_key", registry.NodeKey, filters=("provider", "valid_from", "valid_until")),
    Resource(
        *("offers", "offer", registry.Offer),
        filters=("provider", "offer_id", "kind", "token", "is_open", "min_deposit", "terms_digest"),
        sorts=("min_deposit", "active_leases"),
        links={
            "offered_by": Link("providers", _OF_PROVIDER),
            "document": Link("offer_documents", {"terms_digest": "terms_digest"}),
            "leases": Link("leases", {"provider": "provider", "offer_id": "offer_id"}),
            "versions": Link("offer_versions", {"provider": "provider", "offer_id": "offer_id"}),
        },
    ),
    _event("offer_versions", "offer_version", registry.OfferVersion, "provider", "offer_id", "version"),
    Resource(
        *("leases", "lease", escrow.Lease),
        filters=(
            *("owner", "provider", "offer_id", "token", "signer", "terms_digest", "opened_at", "expiry", "closes_at"),
            *("deposit", "settled", "is_closing", "is_revoked", "is_released"),
        ),
        sorts=("opened_at", "closes_at", "deposit", "settled"),
        links={
            "offer": Link("offers", {"provider": "provider", "offer_id": "offer_id"}),
            "served_by": Link("providers", _OF_PROVIDER),
            "settlements": Link("settlements", _OF_LEASE),
            "top_ups": Link("lease_top_ups", _OF_LEASE),
            "closes": Link("lease_closes", _OF_LEASE),
            "pots": Link("pots", _OF_LEASE),
        },
    ),
    Resource("lease_nonces", "lease_nonce", escrow.LeaseNonce),
    _event("lease_top_ups", "lease_top_up", escrow.LeaseTopUp, "lease_id", "caller"),
    _event("lease_closes", "lease_close", escrow.LeaseClose, "lease_id", "caller"),
    _event("lease_releases", "lease_release", escrow.LeaseRelease, "lease_id", "owner"),
    _event("settlements", "settlement", escrow.Settlement, "lease_id", "paid", links=_TO_LEASE),
    _event("voucher_skips", "voucher_skip", escrow.VoucherSkip, "lease_id"),
    Resource("earnings", "earning", escrow.Earning, filters=("provider", "token"), sorts=("uncollected", "collected")),
    _event("holds", "hold", escrow.Hold, "provider", "token", "day"),
    _event("collections", "collection", escrow.Collection, "provider", "token", "owner"),
    Resource("fees", "fee", escrow.Fee),
    _event("fee_collections", "fee_collection", escrow.FeeCollection, "token"),
    Resource(*("pots", "pot", escrow.Pot), filters=("lease_id", "provider", "token", "is_paid"), links=_TO_LEASE),
    _event("refunds", "refund", escrow.Refund, "lease_id", "owner"),
    _event("anchors", "anchor", registry.Anchor, "provider", "count"),
    Resource("latest_anchors", "latest_anchor", registry.LatestAnchor, sorts=("anchored_at",)),
    _event("anchor_skips", "anchor_skip", registry.AnchorSkip, "provider"),
    Resource(*("stakes", "stake", staking.Stake), filters=("delegate", "active"), sorts=("active", "slashed")),
    _event("stake_changes", "stake_change", staking.StakeChange, "account", "kind"),
    _event("slashes", "slash", staking.Slash, "account", "filer", "fact"),
    Resource("votes", "vote", staking.Vote, sorts=("votes",)),
    _event("vote_changes", "vote_change", staking.VoteChange, "delegate"),
    _event("delegations", "delegation", staking.Delegation, "delegator", "from_delegate", "to_delegate"),
    Resource("rewards", "reward", staking.Reward),
    _event("rewards_added", "reward_added", staking.RewardAdded, "token", "caller"),
    _event("reward_claims", "reward_claim", staking.RewardClaim, "account", "token"),
    Resource("balances", "balance", escrow.Account, filters=("owner", "token", "balance"), sorts=("balance",)),
    _event("deposits", "deposit", escrow.Deposit, "receiver", "caller", "token", "amount"),
    _event("withdrawals", "withdrawal", escrow.Withdrawal, "owner", "receiver", "token", "amount"),
    Resource("payment_tokens", "payment_token", escrow.PaymentToken, filters=("is_listed", "token_id")),
    Resource(
        *("token_balances", "token_balance", tokens.TokenBalance),
        filters=("token", "owner", "balance"),
        sorts=("balance",),
    ),
    Resource("token_supplies", "token_supply", tokens.TokenSupply),
    _event("token_transfers", "token_transfer", tokens.TokenTransfer, "token", "sender", "receiver", "amount"),
    _event("mints", "mint", tokens.Mint, "receiver", "year"),
    Resource("parameters", "parameter", params.Parameter, sorts=("changed_at",)),
    Resource("roles", "role", params.Role, filters=("contract", "role", "holder")),
    Resource(
        *("logs", "log", RawLog),
        filters=("block_number", "block_time", "log_index", "address", "topic0", "topic1", "topic2", "orphaned"),
        newest_first=True,
    ),
    Resource(
        *("provider_documents", "provider_document", documents.ProviderDocument),
        filters=("provider", "tier", "region", "expires_at"),
        is_cache=True,
    ),
    Resource(
        *("offer_documents", "offer_document", documents.OfferDocument),
        filters=("kind", "token", "model", "fingerprint", "price_in", "price_out", "tier", "region"),
        sorts=("price_in", "price_out"),
        is_cache=True,
    ),
    Resource(*("daily_usage", "daily_usage_of_offer", daily.DailyUsage), filters=("token",), newest_first=True),
    Resource("unknown_events", "unknown_event", UnknownEvent, filters=("address", "last_block")),
)
_PLAIN = tuple(
    Resource(f"{name}s", name, model, newest_first=issubclass(model, EventRow))
    for model, name in ((model, shape_of(model).name) for model in (*STATES, *EVENTS))
    if model not in {resource.model for resource in _DESCRIBED}
)
RESOURCES = _DESCRIBED + _PLAIN
BY_NAME: Mapping[str, Resource] = {resource.name: resource for resource in RESOURCES}
