"""The formula's evidence from the tables, however their rows are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from indexer.reputation.formula import (
    ANCHORED_BEFORE,
    FADE_DAYS,
    Day,
    Evidence,
    Score,
    StakerShares,
    score,
)
from indexer.store.tables.daily import DAY_S

Who = tuple[int, bytes]
"""A provider's number and a token's address."""
Rows = Iterable[tuple[Any, ...]]
STAKER_SHARE_KEY = 1
"""Of Params."""


class Question(NamedTuple):
    """A statement with the numbers to bind."""

    statement: str
    values: tuple[int, ...]


class Known(NamedTuple):
    """Everybody's evidence, and what it is measured with."""

    by_provider: Mapping[Who, Evidence]
    shares: StakerShares

    def scores(self, today: int) -> dict[Who, Score]:
        """Everybody's of whom anything counts still."""
        return {
            who: score(evidence, self.shares, today)
            for who, evidence in self.by_provider.items()
            if max(evidence.days) > today - FADE_DAYS
        }


def questions(today: int) -> tuple[Question, ...]:
    """What to read for `known`, in its order."""
    oldest = today - FADE_DAYS
    return (
        Question(
            "SELECT provider, token, day, fees, disowned_fees, refunded FROM daily_usage WHERE day > ?", (oldest,)
        ),
        Question("SELECT provider, day FROM daily_anchor WHERE day > ?", (oldest - ANCHORED_BEFORE,)),
        Question("SELECT p.provider, s.block_time FROM slash s JOIN provider p ON p.owner = s.account", ()),
        Question(
            "SELECT block_time, new_value FROM parameter_change WHERE key = ? ORDER BY block_number, log_index",
            (STAKER_SHARE_KEY,),
        ),
    )


def known(usage: Rows, anchors: Rows, slashes: Rows, changes: Rows) -> Known:
    """What `questions` found."""
    days: dict[Who, dict[int, Day]] = defaultdict(dict)
    for provider, token, day, *sums in usage:
        of_provider = days[provider, bytes(token)]
        of_provider[day] = Day(*map(sum, zip(of_provider.get(day, Day()), map(int, sums), strict=True)))
    return Known(
        evidence_of(days, _grouped(anchors), _grouped((provider, time // DAY_S) for provider, time in slashes)),
        StakerShares((time // DAY_S, int(value)) for time, value in changes),
    )


def evidence_of(
    days: Mapping[Who, Mapping[int, Day]], anchors: Mapping[int, list[int]], slashes: Mapping[int, list[int]]
) -> dict[Who, Evidence]:
    """Anchors and slashes are the provider's in every token."""
    return {who: Evidence(found, anchors.get(who[0], ()), slashes.get(who[0], ())) for who, found in days.items()}


def _grouped(rows: Rows) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for provider, day in rows:
        found[provider].append(day)
    return found
