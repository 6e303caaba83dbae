"""Pages of rows together with the block they are of, both from one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from indexer.api.errors import ApiError
from indexer.api.paging import Query
from indexer.api.readers import Fetch, Reader
from indexer.api.resources import Resource

JsonRow = dict[str, Any]
_POSITION = "SELECT block_number, block_hash, block_time, final FROM cursor"


class Indexed(NamedTuple):
    """The block up to which everything is in the tables; `final` is the newest final one then."""

    number: int
    hash: bytes
    time: int
    final: int

    def shown(self) -> JsonRow:
        """As the API shows it."""
        return {"number": self.number, "hash": f"0x{self.hash.hex()}", "time": self.time, "final": self.final}


class Page(NamedTuple):
    """Rows as the API shows them; `next` is the cursor of the page behind, if there is one."""

    indexed: Indexed
    rows: list[JsonRow]
    next: str | None


class Pages:
    """Runs queries on a reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._show = lru_cache(maxsize=None)(self._converters)

    async def indexed(self, fetch: Fetch | None = None) -> Indexed:
        """How far the tables are, in the snapshot of `fetch` if one is given. Raises ApiError if nothing is indexed."""
        return _first(await (fetch or self._reader.fetch)(_POSITION, ()))

    async def read(self, query: Query, fetch: Fetch | None = None) -> Page:
        """The page; of the snapshot of `fetch` if one is given. Raises ApiError."""
        rows = await (fetch or self._reader.fetch)(_joined(query), query.values)
        indexed = _first(rows)
        names = tuple(query.resource.columns)
        converters = self._show(query.resource)
        found = []
        for row in rows[: query.limit]:
            # The key is null only where the tables have no row for the block.
            if row[4] is None:
                break
            shown = dict(zip(names, row[5:], strict=True))
            for name, convert in converters:
                value = shown[name]
                if value is not None:
                    shown[name] = convert(value)
            found.append(shown)
        following = query.cursor_after(found[-1]) if len(rows) > query.limit else None
        return Page(indexed, found, following)

    def _converters(self, resource: Resource) -> Sequence[tuple[str, Callable[[Any], Any]]]:
        shown = self._reader.shown
        return [(name, shown[column.kind]) for name, column in resource.columns.items() if column.kind in shown]


def _joined(query: Query) -> str:
    order = ", ".join(f"t.{part}" for part in query.ordering.split(", "))
    return (
        "SELECT c.block_number, c.block_hash, c.block_time, c.final, t.* FROM cursor AS c "  # noqa: S608
        f"LEFT JOIN (SELECT 1 AS found, page.* FROM ({query.statement}) AS page) AS t ON 1 = 1 ORDER BY {order}"
    )


def _first(rows: list[tuple[Any, ...]]) -> Indexed:
    if not rows:
        raise ApiError(503, "nothing_indexed", "nothing is indexed yet", retry_after_s=5)
    return Indexed(*rows[0][:4])
