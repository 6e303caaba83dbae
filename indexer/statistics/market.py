"""The market's figures from rows of the tables, measured at the newest indexed block's time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from indexer.statistics.prices import Group, Life, OfferKey, Priced, Summary, Terms, Version, priced_at, summary

HOUR_S = 3_600
HOURS, DAYS = 24, 30
Rows = Iterable[tuple[Any, ...]]

LIVES = (
    "SELECT provider, offer_id, version, kind, token, terms_digest, block_time FROM offer_version "
    "ORDER BY block_number, log_index",
    "SELECT provider, offer_id, is_open, block_time FROM offer_switch ORDER BY block_number, log_index",
    "SELECT provider, block_time FROM deregistration",
    "SELECT terms_digest, model, price_in, price_out, unit_scale FROM offer_document",
)
"""Statements for `Market`, in the order of its arguments."""
LEASES = (
    "SELECT provider, offer_id, version, COUNT(*) FROM lease WHERE NOT is_released GROUP BY provider, offer_id, version"
)
USAGE = (
    "SELECT day, provider, offer_id, version, volume, settlements, leases_opened FROM daily_usage "
    "WHERE day > ? AND day <= ?"
)
SETTLED = (
    "SELECT l.provider, l.offer_id, l.version, s.paid FROM settlement s JOIN lease l ON l.lease_id = s.lease_id "
    "WHERE s.block_number >= ? AND s.block_time > ?"
)


class Point(NamedTuple):
    """Prices at a time, None while no offer was open; `offers` is how many were."""

    time: int
    offers: int
    price_in: Summary | None
    price_out: Summary | None


class Volume(NamedTuple):
    """What was settled, in base units of the group's token, and in how many settlements."""

    paid: int = 0
    settlements: int = 0

    def plus(self, paid: int, settlements: int) -> Volume:
        """With more of it."""
        return Volume(self.paid + paid, self.settlements + settlements)


class Figures(NamedTuple):
    """Of one group, now. `leases_30d` were opened in 30 days, `open_leases` are not released."""

    now: Point
    providers: int
    open_leases: int
    last_24h: Volume
    last_30d: Volume
    leases_30d: int


class Market:
    """Offers' lives and what they ask."""

    def __init__(self, versions: Rows, switches: Rows, ends: Rows, terms: Rows) -> None:
        ends_at: dict[int, int] = dict(ends)
        of_offer: dict[OfferKey, list[Version]] = defaultdict(list)
        self._group_of: dict[tuple[int, int, int], tuple[int, bytes, bytes]] = {}
        for provider, offer_id, version, kind, token, digest, time in versions:
            of_offer[provider, offer_id].append(Version(time, kind, bytes(token), bytes(digest)))
            self._group_of[provider, offer_id, version] = kind, bytes(token), bytes(digest)
        switched: dict[OfferKey, list[tuple[int, bool]]] = defaultdict(list)
        for provider, offer_id, is_open, time in switches:
            switched[provider, offer_id].append((time, bool(is_open)))
        self._lives = {key: Life(found, switched.get(key, ()), ends_at.get(key[0])) for key, found in of_offer.items()}
        self._terms = {
            bytes(digest): Terms(model, int(price_in), int(price_out), int(scale))
            for digest, model, price_in, price_out, scale in terms
        }

    def figures(self, now: int, leases: Rows, usage: Rows, settled: Rows) -> dict[Group, Figures]:
        """Every group with an open offer, or with trade in 30 days."""
        open_leases: dict[Group, int] = defaultdict(int)
        for *version, count in leases:
            open_leases[self._group(version)] += count
        month: dict[Group, Volume] = defaultdict(Volume)
        opened: dict[Group, int] = defaultdict(int)
        for _, *version, volume, settlements, leases_opened in usage:
            group = self._group(version)
            month[group] = month[group].plus(int(volume), settlements)
            opened[group] += leases_opened
        recent: dict[Group, Volume] = defaultdict(Volume)
        for *version, paid in settled:
            group = self._group(version)
            recent[group] = recent[group].plus(int(paid), 1)
        priced = priced_at(now, self._lives, self._terms)
        return {
            group: Figures(
                point(now, priced.get(group)),
                len({provider for provider, _ in priced[group].offers}) if group in priced else 0,
                open_leases.get(group, 0),
                recent.get(group, Volume()),
                month.get(group, Volume()),
                opened.get(group, 0),
            )
            for group in sorted({*priced, *month}, key=_order)
        }

    def history(self, now: int, step: int, count: int) -> list[tuple[int, dict[Group, Priced]]]:
        """What was open `count` times, `step` seconds apart, the last time now."""
        times = range(now - (count - 1) * step, now + 1, step)
        return [(time, priced_at(time, self._lives, self._terms)) for time in times]

    def volume_by_day(self, group: Group, usage: Rows, today: int) -> list[tuple[int, Volume]]:
        """A group's trade of the last 30 days, day by day."""
        found = {day: Volume() for day in range(today - DAYS + 1, today + 1)}
        for day, *version, volume, settlements, _ in usage:
            if self._group(version) == group:
                found[day] = found[day].plus(int(volume), settlements)
        return list(found.items())

    def _group(self, version: list[int]) -> Group:
        kind, token, digest = self._group_of[version[0], version[1], version[2]]
        known = self._terms.get(digest)
        return Group(kind, known.model if known else None, token)


def point(time: int, priced: Priced | None) -> Point:
    """The prices of a group's open offers."""
    if priced is None:
        return Point(time, 0, None, None)
    return Point(time, len(priced.offers), summary(priced.price_in), summary(priced.price_out))


def _order(group: Group) -> tuple[int, str, bytes]:
    return group.kind, group.model or "", group.token
