"""Providers, keys, offers and anchors."""

from indexer.decode.decoder import Event
from indexer.derive.handlers import on
from indexer.store.rows import Rows
from indexer.store.tables.daily import DAY_S, DailyAnchor
from indexer.store.tables.registry import (
    Anchor,
    AnchorSkip,
    Deregistration,
    LatestAnchor,
    NodeKey,
    Offer,
    OfferSwitch,
    OfferVersion,
    Provider,
)

FOREVER = 2**40 - 1
_TERMS = (
    *("kind", "token", "terms_digest", "min_deposit"),
    *("max_duration", "close_delay_min", "close_delay_max", "max_active"),
)


@on("Registry", "ProviderRegistered", lambda e: [(Provider, (e.args["provider"],)), (NodeKey, (e.args["node_key"],))])
def provider_registered(event: Event, rows: Rows) -> None:
    args, now = event.args, event.log.block_time
    rows.ensure(
        Provider,
        args["provider"],
        owner=args["owner"],
        node_key=args["node_key"],
        metadata_digest=args["metadata_digest"],
        offer_count=0,
        is_registered=True,
        registered_at=now,
        leases_end=None,
    )
    rows.ensure(NodeKey, args["node_key"], provider=args["provider"], valid_from=now, valid_until=FOREVER)


@on("Registry", "MetadataChanged", lambda e: [(Provider, (e.args["provider"],))])
def metadata_changed(event: Event, rows: Rows) -> None:
    rows.change(Provider, event.args["provider"])["metadata_digest"] = event.args["metadata_digest"]


@on("Registry", "NodeKeyRotated", lambda e: [(Provider, (e.args["provider"],)), (NodeKey, (e.args["old_key"],))])
def node_key_rotated(event: Event, rows: Rows) -> None:
    args, now = event.args, event.log.block_time
    rows.change(Provider, args["provider"])["node_key"] = args["new_key"]
    rows.change(NodeKey, args["old_key"])["valid_until"] = now
    rows.ensure(NodeKey, args["new_key"], provider=args["provider"], valid_from=now, valid_until=FOREVER)


@on("Registry", "OfferCreated", lambda e: [(Provider, (e.args["provider"],))])
def offer_created(event: Event, rows: Rows) -> None:
    args = event.args
    terms = {name: args[name] for name in _TERMS}
    rows.change(Provider, args["provider"])["offer_count"] += 1
    rows.ensure(
        Offer, args["provider"], args["offer_id"], version=args["version"], is_open=True, active_leases=0, **terms
    )
    rows.add(OfferVersion, event.log, **args)


@on("Registry", "OfferUpdated", lambda e: [(Offer, (e.args["provider"], e.args["offer_id"]))])
def offer_updated(event: Event, rows: Rows) -> None:
    args = event.args
    row = rows.change(Offer, args["provider"], args["offer_id"])
    row["version"] = args["version"]
    row.update({name: args[name] for name in _TERMS})
    rows.add(OfferVersion, event.log, **args)


@on("Registry", "OfferOpenChanged", lambda e: [(Offer, (e.args["provider"], e.args["offer_id"]))])
def offer_open_changed(event: Event, rows: Rows) -> None:
    rows.change(Offer, event.args["provider"], event.args["offer_id"])["is_open"] = event.args["is_open"]
    rows.add(OfferSwitch, event.log, **event.args)


@on("Registry", "ProviderDeregistered", lambda e: [(Provider, (e.args["provider"],))])
def provider_deregistered(event: Event, rows: Rows) -> None:
    rows.change(Provider, event.args["provider"])["is_registered"] = False
    rows.add(Deregistration, event.log, **event.args)


@on(
    "UsageAnchor",
    "Anchored",
    lambda e: [
        (LatestAnchor, (e.args["provider"],)),
        (DailyAnchor, (e.log.block_time // DAY_S, e.args["provider"])),
    ],
)
def anchored(event: Event, rows: Rows) -> None:
    args = event.args
    newest = {"count": args["count"], "root": args["root"], "anchored_at": event.log.block_time}
    rows.ensure(LatestAnchor, args["provider"]).update(newest)
    rows.ensure(DailyAnchor, event.log.block_time // DAY_S, args["provider"], anchors=0)["anchors"] += 1
    rows.add(Anchor, event.log, **args)


@on("UsageAnchor", "AnchorSkipped")
def anchor_skipped(event: Event, rows: Rows) -> None:
    rows.add(AnchorSkip, event.log, **event.args)
