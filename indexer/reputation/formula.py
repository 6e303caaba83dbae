"""The formula. All integers; a day is a Unix time divided by 86,400, `today` the newest indexed block's.

A day's fees are what consumers signed for and paid, and what nobody gets back who pays themself: the part that goes to
stakers could be the provider's own. They count if the provider anchored receipts near that day, which is its own
signature. All of it fades to nothing within a year.

    fade(d)  = max(0, 365 − (today − d))
    credit   = Σ fees(d) × (10,000 − share(d)) × fade(d) / (10,000 × 365), over days with an anchor in [d − 7, d + 31]
    debit    = Σ disowned fees(d) × (10,000 − share(d)) × fade(d) / (10,000 × 365), over the same days
               + Σ refunded(d) × fade(d) / 365
    slashed  = min(10,000, Σ 2,500 × fade(d) / 365), over the owner's slashes
    points   = max(0, credit − debit) × (10,000 − slashed) / 10,000

Disowned fees are booked on the day on which their lease was opened, when none of them was paid yet: they take back no
more than they gave. Each division is rounded down once, after its sum. `share(d)` is the largest part of fees, in
hundredths of a per cent, that went to stakers at any time of day d.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

FADE_DAYS = 365
ANCHORED_BEFORE, ANCHORED_AFTER = 7, 31
SLASH_BPS = 2_500
BPS = 10_000


class Day(NamedTuple):
    """One day's sums of a provider in one token, in its base units."""

    fees: int = 0
    disowned_fees: int = 0
    refunded: int = 0


class Evidence(NamedTuple):
    """What counts for a provider in one token: sums by day, and the days of its anchors and of its owner's slashes."""

    days: Mapping[int, Day]
    anchors: Collection[int]
    slashes: Collection[int]


class Score(NamedTuple):
    """`credit`, `debit` and `points` in the token's base units, `slashed` in hundredths of a per cent."""

    credit: int
    debit: int
    slashed: int
    points: int


class StakerShares:
    """The part of fees that goes to stakers, from its changes in chain order: (day, hundredths of a per cent)."""

    def __init__(self, changes: Iterable[tuple[int, int]]) -> None:
        found = list(changes)
        self._days = [day for day, _ in found]
        self._shares = [share for _, share in found]

    def on(self, day: int) -> int:
        """The largest of a day; all of it before any is known."""
        first, end = bisect_left(self._days, day), bisect_right(self._days, day)
        return max(self._shares[max(first - 1, 0) : end], default=BPS)


def score(evidence: Evidence, shares: StakerShares, today: int) -> Score:
    """The formula above."""
    anchors = sorted(evidence.anchors)
    credit = debit = 0
    for day, sums in evidence.days.items():
        fade = _fade(day, today)
        lost = BPS - shares.on(day)
        debit += sums.refunded * BPS * fade
        at = bisect_left(anchors, day - ANCHORED_BEFORE)
        if at < len(anchors) and anchors[at] <= day + ANCHORED_AFTER:
            credit += sums.fees * lost * fade
            debit += sums.disowned_fees * lost * fade
    credit, debit = credit // (BPS * FADE_DAYS), debit // (BPS * FADE_DAYS)
    slashed = min(BPS, sum(SLASH_BPS * _fade(day, today) for day in evidence.slashes) // FADE_DAYS)
    return Score(credit, debit, slashed, max(0, credit - debit) * (BPS - slashed) // BPS)


def _fade(day: int, today: int) -> int:
    return max(0, FADE_DAYS - (today - day))
