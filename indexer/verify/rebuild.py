"""Replays the raw logs into an empty database and compares the derived tables row by row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, zip_longest

from indexer import derive
from indexer.decode.decoder import Decoder
from indexer.rpc.logs import Log
from indexer.store.database import Database
from indexer.store.rows import Rows
from indexer.store.shapes import Model, shape_of
from indexer.store.tables import EVENTS, STATES, RawLog
from protocol.chain.deployments import Deployment

_BATCH = 10_000
_SHOWN = 20


def replay(source: Database, target: Database, deployment: Deployment, decoder: Decoder) -> int:
    """Fill the derived tables of `target` from the raw logs of `source`; returns how many logs there were."""
    rows = Rows(target, {name: bytes.fromhex(record.address[2:]) for name, record in deployment.contracts.items()})
    count = 0
    with source.transaction():
        for logs in _batches(source):
            with target.transaction():
                derive.apply(logs, decoder.decode_all(logs), rows)
                rows.flush(logs[-1].block_number)
            count += len(logs)
    return count


def differences(one: Database, other: Database) -> list[str]:
    """What differs between two databases' derived tables, at most the first few of each table."""
    found: list[str] = []
    with one.transaction(), other.transaction():
        for model in (*STATES, *EVENTS):
            found += islice(_table_differences(one, other, model), _SHOWN)
    return found


def _table_differences(one: Database, other: Database, model: Model) -> Iterator[str]:
    shape = shape_of(model)
    for mine, theirs in zip_longest(one.scan(shape), other.scan(shape)):
        if mine != theirs:
            yield f"{shape.name}: {_shown(mine)} here, {_shown(theirs)} rebuilt"


def _batches(source: Database) -> Iterator[list[Log]]:
    rows = source.scan(shape_of(RawLog), "WHERE NOT orphaned")
    while batch := [Log(*row[:-1]) for row in islice(rows, _BATCH)]:
        yield batch


def _shown(row: tuple[object, ...] | None) -> str:
    if row is None:
        return "no row"
    return "(" + ", ".join("0x" + part.hex() if isinstance(part, bytes) else str(part) for part in row) + ")"
