"""What the database code needs to know of a table: its columns, their kinds, its key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, LargeBinary, Table
from sqlmodel import SQLModel

from indexer.store.columns import Uint256

Row = dict[str, Any]
Key = tuple[Any, ...]
Model = type[SQLModel]


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's name, its columns with their kinds ("number", "uint256", "binary", "flag", "text"), and its key."""

    name: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def key_kinds(self) -> tuple[str, ...]:
        """The kinds of the key's columns."""
        return tuple(self.kinds[self.columns.index(name)] for name in self.key)


@cache
def shape_of(model: Model) -> Shape:
    """The shape of a model's table."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    return Shape(
        name=table.name,
        columns=tuple(column.name for column in table.columns),
        kinds=tuple(_kind(column.type) for column in table.columns),
        key=tuple(column.name for column in table.primary_key.columns),
    )


def _kind(column_type: object) -> str:
    for kind, name in ((Uint256, "uint256"), (BigInteger, "number"), (LargeBinary, "binary"), (Boolean, "flag")):
        if isinstance(column_type, kind):
            return name
    return "text"
