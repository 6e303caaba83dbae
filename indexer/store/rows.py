"""The one way to change derived tables: rows are changed in memory and written in bulk, one statement per table.

While a journal is kept, a state row's value before its first change is kept too, so that blocks can be undone. Rows
stay in memory between batches, which is sound as long as nobody else writes; `forget` after an error or an undo.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from indexer.exceptions import IndexerError
from indexer.rpc.logs import Log
from indexer.store import journal
from indexer.store.database import Database
from indexer.store.shapes import Key, Model, Row, Shape, shape_of

_KEPT = 60_000
"""Rows in memory above which all are dropped after a batch."""


class MissingRow(IndexerError):  # noqa: N818 - as its readers call it
    """An event builds on another one that is not here: a node withheld logs, or the deployment file starts too late."""

    exit_code = 6


class Rows:
    """Rows of the derived tables. `addresses` are the deployment's contracts by name."""

    def __init__(self, database: Database, addresses: Mapping[str, bytes]) -> None:
        self.addresses = addresses
        self._database = database
        self._cached: defaultdict[Model, dict[Key, Row | None]] = defaultdict(dict)
        self._changed: defaultdict[Model, dict[Key, None]] = defaultdict(dict)
        self._before: list[tuple[Shape, Key, Row | None]] | None = None
        self._added: defaultdict[Model, list[tuple[Any, ...]]] = defaultdict(list)

    def prefetch(self, keys: Iterable[tuple[Model, Key]]) -> None:
        """Read the rows of these keys that are not in memory, with one query per table."""
        wanted: defaultdict[Model, dict[Key, None]] = defaultdict(dict)
        for model, key in keys:
            if key not in self._cached[model]:
                wanted[model][key] = None
        for model, missing in wanted.items():
            self._load(model, list(missing))

    def keep_journal(self, *, on: bool) -> None:
        """Whether what is changed from here on, until `flush`, is to be undoable."""
        self._before = [] if on else None

    def find(self, model: Model, *key: Any) -> Row | None:
        """A row, for reading only."""
        cached = self._cached[model]
        if key not in cached:
            self._load(model, [key])
        return cached[key]

    def get(self, model: Model, *key: Any) -> Row:
        """A row that must exist, for reading only."""
        row = self.find(model, *key)
        if row is None:
            raise _missing(model, key)
        return row

    def change(self, model: Model, *key: Any) -> Row:
        """A row that must exist, to change it in place."""
        row = self._touch(model, key)
        if row is None:
            raise _missing(model, key)
        return row

    def ensure(self, model: Model, *key: Any, **default: Any) -> Row:
        """A row to change in place, made from the key and `default` if there is none."""
        row = self._touch(model, key)
        if row is None:
            row = self._cached[model][key] = dict(zip(shape_of(model).key, key, strict=True)) | default
        return row

    def add(self, model: Model, log: Log, **values: Any) -> None:
        """A row of an event table."""
        row = (log.block_number, log.log_index, log.block_time, *map(values.__getitem__, shape_of(model).columns[3:]))
        self._added[model].append(row)

    def flush(self, block: int) -> None:
        """Write everything, with a journal of `block` if one is kept. Inside of the caller's transaction."""
        for model, rows in self._added.items():
            self._database.insert(shape_of(model), rows)
        for model, keys in self._changed.items():
            cached = self._cached[model]
            self._database.upsert(shape_of(model), [row for key in keys if (row := cached[key]) is not None])
        if self._before:
            journal.record(self._database, block, self._before)
        self._added.clear()
        self._changed.clear()
        self._before = None
        if sum(map(len, self._cached.values())) > _KEPT:
            self._cached.clear()

    def forget(self) -> None:
        """Drop everything that was not written, and what is in memory."""
        self._cached.clear()
        self._changed.clear()
        self._added.clear()
        self._before = None

    def _touch(self, model: Model, key: Key) -> Row | None:
        cached = self._cached[model]
        if key not in cached:
            self._load(model, [key])
        row = cached[key]
        changed = self._changed[model]
        if key not in changed:
            changed[key] = None
            if self._before is not None:
                self._before.append((shape_of(model), key, None if row is None else dict(row)))
        return row

    def _load(self, model: Model, keys: list[Key]) -> None:
        shape = shape_of(model)
        cached = self._cached[model]
        cached.update(dict.fromkeys(keys))
        for row in self._database.fetch(shape, keys):
            cached[tuple(row[name] for name in shape.key)] = row


def _missing(model: Model, key: Key) -> MissingRow:
    shown = ", ".join(part.hex() if isinstance(part, bytes) else str(part) for part in key)
    return MissingRow(
        f"an event builds on the {shape_of(model).name} {shown}, which no event made: a node withheld logs, or the "
        "deployment file's block is too late; run `clawmarket indexer reset`, then `backfill` with other RPC endpoints"
    )
