"""Prices of offers that were open at a time, summed up. Integers: base units of the token per 10⁹ units."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

UNITS = 10**9
OfferKey = tuple[int, int]
"""A provider's number and its offer's."""


class Terms(NamedTuple):
    """What the terms of an offer say of its price; `model` is None for kinds without one."""

    model: str | None
    price_in: int
    price_out: int
    unit_scale: int


class Group(NamedTuple):
    """What is compared with each other. `token` is the payment token's address."""

    kind: int
    model: str | None
    token: bytes


class Summary(NamedTuple):
    """Of one price over offers; the median is the lower of two, the mean is rounded down."""

    min: int
    median: int
    mean: int
    max: int


class Version(NamedTuple):
    """A version of an offer, from this time on."""

    time: int
    kind: int
    token: bytes
    terms_digest: bytes


class Life(NamedTuple):
    """One offer's versions and switches (time, whether it was opened), in chain order, and its provider's end."""

    versions: Sequence[Version]
    switches: Sequence[tuple[int, bool]]
    ends_at: int | None

    def version_at(self, time: int) -> Version | None:
        """The version in force if the offer was open then. What happened at this second has happened."""
        at = bisect_right(self.versions, time, key=lambda version: version.time)
        if at == 0 or (self.ends_at is not None and self.ends_at <= time):
            return None
        switched = bisect_right(self.switches, time, key=lambda switch: switch[0])
        is_open = self.switches[switched - 1][1] if switched else True
        return self.versions[at - 1] if is_open else None


class Priced(NamedTuple):
    """Open offers of a group at a time, and their prices."""

    offers: list[OfferKey]
    price_in: list[int]
    price_out: list[int]


def priced_at(time: int, lives: Mapping[OfferKey, Life], terms: Mapping[bytes, Terms]) -> dict[Group, Priced]:
    """Open offers whose terms are known, by group."""
    found: dict[Group, Priced] = {}
    for key, life in lives.items():
        version = life.version_at(time)
        known = terms.get(version.terms_digest) if version else None
        if version is None or known is None:
            continue
        group = Group(version.kind, known.model, version.token)
        priced = found.setdefault(group, Priced([], [], []))
        priced.offers.append(key)
        priced.price_in.append(known.price_in * UNITS // known.unit_scale)
        priced.price_out.append(known.price_out * UNITS // known.unit_scale)
    return found


def summary(prices: Iterable[int]) -> Summary:
    """Of at least one price."""
    found = sorted(prices)
    return Summary(found[0], found[(len(found) - 1) // 2], sum(found) // len(found), found[-1])
