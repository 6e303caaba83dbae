"""Everybody's reputation once more, from the raw logs, against what the tables give."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from indexer.decode.decoder import Decoder, Event
from indexer.reputation.evidence import known, questions
from indexer.reputation.from_logs import known_from
from indexer.rpc.logs import Log
from indexer.store.cursor import Position
from indexer.store.database import Database
from indexer.store.shapes import shape_of
from indexer.store.tables import RawLog
from indexer.store.tables.daily import DAY_S
from protocol.address import to_address

_BATCH = 10_000


def reputation_differences(database: Database, decoder: Decoder, position: Position) -> list[str]:
    """Of each provider and token whose points, or what they come from, are not the same."""
    today = position.block_time // DAY_S
    with database.transaction():
        rows = [database.execute(question.statement, question.values) for question in questions(today)]
        here = known(*rows).scores(today)
        again = known_from(_events(database, decoder)).scores(today)
    return [
        f"reputation of provider {provider} in {to_address(token)}: {here.get((provider, token))} here, "
        f"{again.get((provider, token))} from the logs"
        for provider, token in sorted(here.keys() | again.keys())
        if here.get((provider, token)) != again.get((provider, token))
    ]


def _events(database: Database, decoder: Decoder) -> Iterator[Event | None]:
    rows = database.scan(shape_of(RawLog), "WHERE NOT orphaned")
    while logs := [Log(*row[:-1]) for row in islice(rows, _BATCH)]:
        yield from decoder.decode_all(logs)
