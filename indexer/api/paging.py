"""From parameters to one parameterised statement: filters, order, keyset cursor, limit.

No text of a request becomes part of a statement: columns and orders are looked up in the resource, values are parsed
by the column's kind and bound. A cursor holds the last row's values of the columns that order the page, as text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from indexer.api.columns import Column
from indexer.api.errors import ApiError, bad_parameter
from indexer.api.resources import Resource

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_MAX_CURSOR = 16_384
_BOUNDS = {"_min": ">=", "_max": "<="}
_RANGED = ("number", "uint256")

Bound = tuple[str, Any]
"""A value to bind, with its column's kind."""


@dataclass(frozen=True)
class Query:
    """A statement without the indexed position; `?` stands for each bound value in turn."""

    resource: Resource
    where: str
    values: Sequence[Bound]
    order: str
    limit: int

    @property
    def statement(self) -> str:
        """One row more than the page has, which tells whether there is a next one."""
        columns = ", ".join(self.resource.columns)
        return (
            f"SELECT {columns} FROM {self.resource.table}{self.where} "  # noqa: S608 - names of this program
            f"ORDER BY {self.ordering} LIMIT {self.limit + 1}"
        )

    @property
    def ordering(self) -> str:
        """What stands behind ORDER BY."""
        direction = " DESC" if self.order.startswith("-") else ""
        return ", ".join(f"{name}{direction}" for name in self.resource.orders[self.order])

    def cursor_after(self, row: Mapping[str, Any]) -> str:
        """What continues behind this row, as the API shows it."""
        shown = [self.order, *(_text(row[name]) for name in self.resource.orders[self.order])]
        return base64.urlsafe_b64encode(orjson.dumps(shown)).rstrip(b"=").decode()


def filter_columns(resource: Resource) -> Iterator[tuple[str, Column, str]]:
    """Each filter's parameter, its column and its comparison."""
    for column in resource.filterable:
        yield column.name, column, "="
        if column.kind in _RANGED:
            for suffix, comparison in _BOUNDS.items():
                yield f"{column.name}{suffix}", column, comparison


def page_query(resource: Resource, parameters: Mapping[str, str]) -> Query:
    """The statement of a page. Raises ApiError for any parameter that is not the resource's or cannot be read."""
    left = dict(parameters)
    order = left.pop("sort", next(iter(resource.orders)))
    if order not in resource.orders:
        raise bad_parameter("sort", f"one of {', '.join(resource.orders)}")
    limit = take_limit(left)
    after = left.pop("after", None)
    conditions: list[str] = []
    values: list[Bound] = []
    for param, column, comparison in filter_columns(resource):
        if param in left:
            conditions.append(f"{column.name} {comparison} ?")
            values.append((column.kind, column.parse(left.pop(param), param)))
    refuse(resource.name, left)
    if after is not None:
        columns = [resource.columns[name] for name in resource.orders[order]]
        names, marks = ", ".join(column.name for column in columns), ", ".join("?" * len(columns))
        conditions.append(f"({names}) {'<' if order.startswith('-') else '>'} ({marks})")
        values += _cursor_values(after, order, columns)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return Query(resource, where, values, order, limit)


def row_query(resource: Resource, key: Mapping[str, str], parameters: Mapping[str, str]) -> Query:
    """The statement of one row. Raises ApiError for a part of the key that cannot be read, and for any parameter."""
    refuse(resource.name, parameters)
    values = [(resource.columns[name].kind, resource.columns[name].parse(key[name], name)) for name in resource.key]
    where = f" WHERE {' AND '.join(f'{name} = ?' for name in resource.key)}"
    return Query(resource, where, values, next(iter(resource.orders)), 1)


def refuse(name: str, parameters: Mapping[str, str]) -> None:
    """Raises ApiError for any parameter that is left."""
    for param in parameters:
        message = f"{name} has no parameter {param[:100]!r} here"
        raise ApiError(400, "unknown_parameter", message, param=param[:100])


def take_limit(parameters: dict[str, str]) -> int:
    """Takes `limit` out of the parameters. Raises ApiError."""
    text = parameters.pop("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_LIMIT):
        raise bad_parameter("limit", f"not a number from 1 to {MAX_LIMIT}")
    return int(text)


def _cursor_values(cursor: str, order: str, columns: Sequence[Column]) -> list[Bound]:
    try:
        if len(cursor) > _MAX_CURSOR:
            raise bad_parameter("after", "too long")
        raw = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found = orjson.loads(raw)
        if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
            raise bad_parameter("after", "not a cursor")
        if len(found) != 1 + len(columns) or found[0] != order:
            raise bad_parameter("after", "this cursor is of another order")
        return [(column.kind, column.parse(part, "after")) for column, part in zip(columns, found[1:], strict=True)]
    except (binascii.Error, UnicodeEncodeError, orjson.JSONDecodeError) as error:
        raise bad_parameter("after", "not a cursor") from error


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
