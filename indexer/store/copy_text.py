"""Values as Postgres reads them in COPY's text format and in array literals: much faster than one parameter each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Writer = Callable[[Any], str]
_TYPES = {"number": "bigint", "uint256": "numeric", "binary": "bytea", "flag": "boolean", "text": "text"}
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def type_of(kind: str) -> str:
    """The column type of a kind."""
    return _TYPES[kind]


def copy_text(kinds: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows for COPY … FROM STDIN. Raises ValueError for a uint256 below zero."""
    writers = [_WRITERS[kind] for kind in kinds]
    lines = [
        "\t".join([r"\N" if value is None else write(value) for write, value in zip(writers, row, strict=True)])
        for row in rows
    ]
    lines.append("")
    return "\n".join(lines)


def array_text(kind: str, values: Iterable[Any]) -> str:
    """Values as an array literal. Raises ValueError for a uint256 below zero."""
    write = _ELEMENTS[kind]
    return "{" + ",".join(["NULL" if value is None else write(value) for value in values]) + "}"


def check_uint(value: int) -> int:
    """The value, unless it is below zero: then an event before it is missing."""
    if value < 0:
        raise ValueError(f"an amount below zero: {value}")
    return value


def _uint(value: int) -> str:
    return str(check_uint(value))


def _binary(value: bytes) -> str:
    return "\\\\x" + value.hex()


def _flag(value: bool) -> str:  # noqa: FBT001 - a column's value
    return "t" if value else "f"


def _text(value: str) -> str:
    return value.translate(_ESCAPES)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'


def _quoted_binary(value: bytes) -> str:
    return '"\\\\x' + value.hex() + '"'


_WRITERS: dict[str, Writer] = {"number": str, "uint256": _uint, "binary": _binary, "flag": _flag, "text": _text}
_ELEMENTS: dict[str, Writer] = _WRITERS | {"binary": _quoted_binary, "text": _quoted}
