"""How fast the indexer fills Postgres, beside Ponder on the same chain and database server.

100,000 transfers of TestUSDC in 1,000 blocks of an anvil node, all final by the same rule; each event changes two
balances and adds one row, in both programs, and the rows are compared at the end. Times are those of whole processes,
from start to all rows in the tables. The node, Postgres, the programs and this one share the machine's cores.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx
import psycopg

from scripts.bench import Report
from scripts.bench._indexer_stage import FINALITY, Process, Stage, indexer, ponder, stage

EVENTS = 100_000
LIVE = 30
GOALS = {"cold_over_ponder_unlimited": 1.5, "replay_events_per_s": 40_000.0}
MOST = {"live_median_s": 0.10, "rss_mb": 250.0}


def run() -> Report:
    """Measure; raises if the two programs' rows differ."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, stage(Path(name)) as place:
        place.fill(EVENTS)
        found = _ours(place) | _ponders(place)
        _compare(place)
    found["cold_over_ponder_unlimited"] = found["cold_events_per_s"] / found["ponder_cold_unlimited_events_per_s"]
    met = all(found[key] >= least for key, least in GOALS.items()) and all(
        found[key] <= most for key, most in MOST.items()
    )
    figures: dict[str, float | bool] = {key: round(value, 3) for key, value in found.items()}
    return Report(
        columns=("", "cold, events/s", "again from own logs, events/s", "block to query, s", "memory, MB"),
        rows=[
            (
                "indexer",
                found["cold_events_per_s"],
                found["replay_events_per_s"],
                found["live_median_s"],
                found["rss_mb"],
            ),
            (
                "Ponder, limiter lifted",
                found["ponder_cold_unlimited_events_per_s"],
                found["ponder_warm_events_per_s"],
                found["ponder_live_median_s"],
                found["ponder_rss_mb"],
            ),
            ("Ponder", found["ponder_cold_events_per_s"], "", "", ""),
        ],
        figures=figures | {"goals_met": met, "load_before": round(load_before, 2)},
        notes=[
            f"{EVENTS:,} events; both ended with the same balances and transfers",
            "goals: cold at 1.5 times Ponder without its limiter, 40,000/s again, 0.10 s, 250 MB",
        ],
    )


def _ours(place: Stage) -> dict[str, float]:
    with indexer(place, "backfill", "ours") as filling:
        cold_s = filling.finish()
    with indexer(place, "verify", "ours") as verifying:
        verifying.finish()
    replayed = re.search(r"replayed \d+ logs, ([\d,]+) a second", verifying.log)
    assert replayed is not None, verifying.log
    with indexer(place, "run", "ours") as running:
        live = _live(place, running, "ours.token_transfer")
    return {
        "cold_events_per_s": EVENTS / cold_s,
        "replay_events_per_s": float(replayed[1].replace(",", "")),
        "live_median_s": live,
        "rss_mb": filling.peak_mb,
    }


def _ponders(place: Stage) -> dict[str, float]:
    cold = {}
    for schema, is_limited in (("limited", True), ("lifted", False)):
        _forget_ponder(place)
        with ponder(place, schema, is_limited=is_limited) as (filling, ready):
            cold[schema] = filling.until(partial(_is_ready, ready))
    with ponder(place, "warm", is_limited=False) as (again, ready):
        warm = again.until(lambda: _is_ready(ready))
        live = _live(place, again, "warm.transfer")
    return {
        "ponder_cold_events_per_s": EVENTS / cold["limited"],
        "ponder_cold_unlimited_events_per_s": EVENTS / cold["lifted"],
        "ponder_warm_events_per_s": EVENTS / warm,
        "ponder_live_median_s": live,
        "ponder_rss_mb": filling.peak_mb,
    }


def _live(place: Stage, process: Process, table: str) -> float:
    """Median seconds from a mined block to its row, asked for every 2 ms."""
    waits = []
    with psycopg.connect(place.database, autocommit=True) as connection:
        statement = f"SELECT 1 FROM {table} WHERE block_number = %s".encode()  # noqa: S608 - names from above
        for number in range(LIVE + 1):
            block = place.send_one(number)
            mined = time.monotonic()
            process.until(lambda: connection.execute(statement, [block]).fetchone(), every_s=0.002)  # noqa: B023 - used at once
            waits.append(time.monotonic() - mined)
            time.sleep(0.03 * (number % 7))
    return statistics.median(waits[1:])  # the first waits for the start


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _forget_ponder(place: Stage) -> None:
    with psycopg.connect(place.database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS ponder_sync CASCADE")


def _compare(place: Stage) -> None:
    """The indexer catches up with the transfers that only Ponder has seen; then all rows must be the same."""
    place.node.mine(FINALITY + 1)
    with indexer(place, "backfill", "ours") as filling:
        filling.finish()
    token = f"token = decode('{place.token[2:]}', 'hex')"
    places = "block_number, log_index, block_time"
    for ours, theirs in (
        (
            f"SELECT encode(owner, 'hex'), balance FROM ours.token_balance WHERE {token}",  # noqa: S608
            "SELECT substr(lower(owner), 3), balance FROM warm.balance",
        ),
        (
            f"SELECT {places}, encode(sender, 'hex'), encode(receiver, 'hex'), amount FROM ours.token_transfer "  # noqa: S608
            f"WHERE {token}",
            f"SELECT {places}, substr(lower(sender), 3), substr(lower(receiver), 3), amount FROM warm.transfer",  # noqa: S608
        ),
    ):
        mine, other = sorted(place.query(ours)), sorted(place.query(theirs))
        if mine != other or not mine:
            raise AssertionError(f"the programs' rows differ: {set(mine) ^ set(other)}"[:2000])
