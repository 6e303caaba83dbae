"""The kinds of columns there are, the same on both databases.

Hashes and addresses are bytes, times Unix seconds, amounts token base units. A uint256 is NUMERIC(78, 0) on Postgres;
SQLite has no such number, so there it is text of 78 digits, which sorts as the number does.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Dialect, LargeBinary, Numeric, String, Text
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import Field

DIGITS = 78
_AUTO = {"autoincrement": False}


class Uint256(TypeDecorator[int]):
    """An integer from 0 to 2**256 - 1."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(DIGITS))
        return dialect.type_descriptor(Numeric(DIGITS, 0))

    def process_bind_param(self, value: int | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return f"{value:0{DIGITS}d}"

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else int(value)


def number(*, key: bool = False, nullable: bool = False) -> Any:
    """Below 2**63: block numbers, times, ids of the market's own."""
    return Field(primary_key=key, nullable=nullable, sa_type=BigInteger, sa_column_kwargs=_AUTO)


def uint256(*, key: bool = False) -> Any:
    """Any uint256."""
    return Field(primary_key=key, nullable=False, sa_type=Uint256, sa_column_kwargs=_AUTO)


def binary(*, key: bool = False, nullable: bool = False, index: bool = False) -> Any:
    """A hash, an address, a log's data."""
    return Field(primary_key=key, nullable=nullable, index=index, sa_type=LargeBinary)


def flag() -> Any:
    """True or false."""
    return Field(nullable=False, sa_type=Boolean)


def text(*, key: bool = False, nullable: bool = False) -> Any:
    """Words of this program's own."""
    return Field(primary_key=key, nullable=nullable, sa_type=Text)
