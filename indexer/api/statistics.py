"""`/v1/statistics`: prices and trade by kind, model and payment token; of one model with their history."""

from __future__ import annotations

import asyncio
from typing import Any

from indexer.api.columns import shown_address
from indexer.api.indexed import Indexed
from indexer.api.readers import Fetch
from indexer.api.readers.base import Rows
from indexer.statistics.market import (
    DAYS,
    HOUR_S,
    HOURS,
    LEASES,
    LIVES,
    SETTLED,
    USAGE,
    Figures,
    Market,
    Point,
    Volume,
    point,
)
from indexer.statistics.prices import Group, Summary
from indexer.store.tables.daily import DAY_S

Json = dict[str, Any]


class Statistics:
    """All of them at one block."""

    def __init__(self, now: int, lives: list[Rows], leases: Rows, usage: Rows, settled: Rows) -> None:
        self._today = now // DAY_S
        self._market = Market(*lives)
        self._usage = usage
        self._figures = self._market.figures(now, leases, usage, settled)
        self._hours = self._market.history(now, HOUR_S, HOURS)
        self._days = self._market.history(now, DAY_S, DAYS)

    def rows(self, kind: int | None, model: str | None, token: bytes | None, limit: int) -> list[Json]:
        """By kind, model and token; of one model with their history."""
        found = [
            _shown(group, figures) | ({} if model is None else self._history(group))
            for group, figures in self._figures.items()
            if kind in (None, group.kind) and model in (None, group.model) and token in (None, group.token)
        ]
        return found[:limit]

    def _history(self, group: Group) -> Json:
        volumes = self._market.volume_by_day(group, self._usage, self._today)
        return {
            "history_24h": [_point(point(time, priced.get(group))) for time, priced in self._hours],
            "history_30d": [_point(point(time, priced.get(group))) for time, priced in self._days],
            "volume_by_day": [{"day": day, **_volume(volume)} for day, volume in volumes],
        }


async def compute(fetch: Fetch, indexed: Indexed) -> Statistics:
    """From the tables. Raises ApiError."""
    now = indexed.time
    today = now // DAY_S
    lives = [await fetch(statement, ()) for statement in LIVES]
    leases = await fetch(LEASES, ())
    usage = await fetch(USAGE, [("number", today - DAYS), ("number", today)])
    since = now - HOURS * HOUR_S
    first = await _first_settled_after(fetch, since)
    settled = await fetch(SETTLED, [("number", first), ("number", since)])
    return await asyncio.to_thread(lambda: Statistics(now, lives, leases, usage, settled))


async def _first_settled_after(fetch: Fetch, time: int) -> int:
    """The first block with a settlement later than this, or one at most: blocks are ordered by time, rows by block."""
    ((low, high),) = await fetch("SELECT MIN(block_number), MAX(block_number) FROM settlement", ())
    if low is None:
        return 0
    while low < high:
        middle = (low + high) // 2
        statement = "SELECT block_time FROM settlement WHERE block_number >= ? ORDER BY block_number LIMIT 1"
        ((found,),) = await fetch(statement, [("number", middle)])
        low, high = (low, middle) if found > time else (middle + 1, high)
    return int(low)


def _shown(group: Group, figures: Figures) -> Json:
    return {
        "kind": group.kind,
        "model": group.model,
        "token": shown_address(group.token),
        **_point(figures.now),
        "providers": figures.providers,
        "open_leases": figures.open_leases,
        "last_24h": _volume(figures.last_24h),
        "last_30d": {**_volume(figures.last_30d), "leases": figures.leases_30d},
    }


def _point(found: Point) -> Json:
    return {
        "time": found.time,
        "offers": found.offers,
        "price_in": _summary(found.price_in),
        "price_out": _summary(found.price_out),
    }


def _summary(found: Summary | None) -> Json | None:
    return None if found is None else {name: str(value) for name, value in found._asdict().items()}


def _volume(found: Volume) -> Json:
    return {"volume": str(found.paid), "settlements": found.settlements}
