"""`/v1/reputation`: every provider's, or one's with what it comes from."""

from __future__ import annotations

import asyncio
from typing import Any

from indexer.api.columns import shown_address
from indexer.api.indexed import Indexed
from indexer.api.readers import Fetch
from indexer.reputation.evidence import Known, Who, known, questions
from indexer.reputation.formula import Score
from indexer.store.tables.daily import DAY_S

Json = dict[str, Any]


class Reputation:
    """All scores of a day."""

    def __init__(self, found: Known, today: int) -> None:
        self._known = found
        scores = found.scores(today)
        self._ranked = sorted(scores.items(), key=lambda each: (-each[1].points, each[0]))

    def rows(self, provider: int | None, token: bytes | None, limit: int) -> list[Json]:
        """Most points first; of one provider with its evidence."""
        wanted = [(who, score) for who, score in self._ranked if provider in (None, who[0]) and token in (None, who[1])]
        rows = [_shown(who, score) for who, score in wanted[:limit]]
        if provider is not None:
            for row, (who, _) in zip(rows, wanted, strict=False):
                row["evidence"] = self._evidence(who)
        return rows

    def _evidence(self, who: Who) -> Json:
        evidence = self._known.by_provider[who]
        days = [
            {
                "day": day,
                **{name: str(amount) for name, amount in sums._asdict().items()},
                "staker_share_bps": self._known.shares.on(day),
            }
            for day, sums in sorted(evidence.days.items())
        ]
        return {"days": days, "anchors": sorted(evidence.anchors), "slashes": sorted(evidence.slashes)}


async def compute(fetch: Fetch, indexed: Indexed) -> Reputation:
    """From the tables. Raises ApiError."""
    today = indexed.time // DAY_S
    rows = [await fetch(each.statement, [("number", value) for value in each.values]) for each in questions(today)]
    return await asyncio.to_thread(lambda: Reputation(known(*rows), today))


def _shown(who: Who, score: Score) -> Json:
    provider, token = who
    return {
        "provider": provider,
        "token": shown_address(token),
        "points": str(score.points),
        "credit": str(score.credit),
        "debit": str(score.debit),
        "slashed_bps": score.slashed,
    }
