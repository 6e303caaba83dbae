"""Canonical JSON: RFC 8785, restricted to objects, arrays, strings, integers, booleans and null.

Numbers are integers within ±(2^53 − 1), which every JSON reader keeps exactly; larger ones are written as decimal
strings by the documents' own schemas, fractions are refused. Object keys are unique and sorted by UTF-16 code units.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any, NoReturn

from protocol.exceptions import InvalidDocument

MAX_SAFE_INTEGER = (1 << 53) - 1
MAX_DEPTH = 16
"""Levels of nesting that are accepted; the outermost value is level 1."""

Json = dict[str, "Json"] | list["Json"] | str | int | bool | None


def canonical_bytes(value: Any) -> bytes:
    """The one UTF-8 text of a value. Raises InvalidDocument for what is outside the restricted JSON."""
    return _render(value, 1).encode()


def _render(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise InvalidDocument(f"nested deeper than {MAX_DEPTH} levels")
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is int:
        return _integer(value)
    if type(value) is str:
        return _string(value)
    if type(value) is list or type(value) is tuple:
        return "[" + ",".join(_render(item, depth + 1) for item in value) + "]"
    if type(value) is dict:
        return _object(value, depth)
    if type(value) is float:
        raise InvalidDocument("fractions are refused: use integers")
    raise InvalidDocument(f"{type(value).__name__} is no JSON value")


def _integer(value: int) -> str:
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        raise InvalidDocument("an integer is beyond 2^53 - 1: write it as a decimal string")
    return str(value)


def _string(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidDocument("a string holds half of a surrogate pair") from error
    return encode_basestring(value)


def _object(value: dict[Any, Any], depth: int) -> str:
    for key in value:
        if type(key) is not str:
            raise InvalidDocument("an object key is not a string")
    rendered = {key: _string(key) for key in value}
    keys = sorted(rendered, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(f"{rendered[key]}:{_render(value[key], depth + 1)}" for key in keys) + "}"


def parse_json(text: bytes | str, max_bytes: int) -> Any:
    """Read restricted JSON, in any layout, of at most `max_bytes` bytes of UTF-8.

    Raises InvalidDocument on a longer text, on wrong UTF-8 or JSON, and on what canonical JSON cannot hold: a
    fraction or exponent, an integer beyond 2^53 − 1, a duplicate key, half a surrogate pair, deep nesting.
    """
    raw = _bounded(text, max_bytes)
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_unique,
            parse_float=_refuse_float,
            parse_constant=_refuse_float,
            parse_int=_parse_integer,
        )
    except InvalidDocument:
        raise
    except UnicodeDecodeError as error:
        raise InvalidDocument("not UTF-8") from error
    except RecursionError:
        raise InvalidDocument(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidDocument("not JSON") from error
    canonical_bytes(value)
    return value


def _bounded(text: bytes | str, max_bytes: int) -> bytes:
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidDocument("a string holds half of a surrogate pair") from error
    if len(text) > max_bytes:
        raise InvalidDocument(f"longer than {max_bytes} bytes")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise InvalidDocument("an object repeats a key")
    return result


def _refuse_float(_: str) -> NoReturn:
    raise InvalidDocument("fractions are refused: use integers")


def _parse_integer(digits: str) -> int:
    if len(digits) > 17:
        raise InvalidDocument("an integer is beyond 2^53 - 1: write it as a decimal string")
    return int(digits)
