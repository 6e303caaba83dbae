"""What blocks that are not final changed, and undoing them. Everything here is inside of the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from indexer.store.database import Database
from indexer.store.shapes import Key, Row, Shape, shape_of
from indexer.store.tables import EVENTS, STATES, Journal, RecentBlock

_JOURNAL = shape_of(Journal)
_STATES = {shape_of(model).name: shape_of(model) for model in STATES}


def record(database: Database, block: int, before: Iterable[tuple[Shape, Key, Row | None]]) -> None:
    """Keep rows as they were before a block; None for those that were not."""
    rows = [
        (
            block,
            shape.name,
            _packed(shape.key_kinds, key),
            None if row is None else _packed(shape.kinds, [row[name] for name in shape.columns]),
        )
        for shape, key, row in before
    ]
    database.insert(_JOURNAL, rows)


def undo(database: Database, last: int) -> None:
    """Undo every block above `last`: rows as they were, events gone, raw logs marked as orphaned."""
    oldest: dict[tuple[str, str], str | None] = {}
    for _, name, key, before in database.scan(_JOURNAL, "WHERE block_number > ?", [last]):
        oldest.setdefault((name, key), before)
    for name, shape in _STATES.items():
        of_table = {key: before for (table, key), before in oldest.items() if table == name}
        restored = [_unpacked(shape.kinds, before) for before in of_table.values() if before is not None]
        database.upsert(shape, [dict(zip(shape.columns, row, strict=True)) for row in restored])
        database.delete(
            shape, [tuple(_unpacked(shape.key_kinds, key)) for key, before in of_table.items() if before is None]
        )
    for shape in [_JOURNAL, shape_of(RecentBlock), *map(shape_of, EVENTS)]:
        database.execute(f"DELETE FROM {shape.name} WHERE block_number > ?", [last])  # noqa: S608
    database.execute("UPDATE raw_log SET orphaned = ? WHERE block_number > ? AND NOT orphaned", [True, last])


def prune(database: Database, final: int) -> None:
    """Forget how to undo blocks that are final now; the newest of them stays known by its hash."""
    database.execute("DELETE FROM journal WHERE block_number <= ?", [final])
    database.execute("DELETE FROM recent_block WHERE block_number < ?", [final])


def _packed(kinds: Sequence[str], values: Iterable[Any]) -> str:
    return json.dumps(
        [
            value.hex() if kind == "binary" and value is not None else value
            for kind, value in zip(kinds, values, strict=True)
        ]
    )


def _unpacked(kinds: Sequence[str], packed: str) -> list[Any]:
    return [
        bytes.fromhex(value) if kind == "binary" and value is not None else value
        for kind, value in zip(kinds, json.loads(packed), strict=True)
    ]
