"""Canonical JSON: one text for one value, and hostile text."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import MAX_DEPTH, MAX_SAFE_INTEGER, canonical_bytes, parse_json
from protocol.exceptions import InvalidDocument

strings = st.text(max_size=20)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)
LIMIT = 1 << 16


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_canonical__layout_and_order__do_not_matter(value: Any, indent: Any, escaped: bool) -> None:
    canonical = canonical_bytes(value)
    text = json.dumps(shuffled(value), indent=indent, ensure_ascii=escaped)
    assert canonical_bytes(parse_json(text, LIMIT)) == canonical
    assert parse_json(canonical, LIMIT) == value
    assert canonical_bytes(parse_json(canonical, LIMIT)) == canonical


@given(values, values)
def test_canonical__other_values__have_other_texts(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (canonical_bytes(one) == canonical_bytes(other)) == same


def test_canonical__keys__are_sorted_by_utf16() -> None:
    # The example of RFC 8785, section 3.2.3.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    ordered = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical_bytes(dict.fromkeys(keys, 0)))) == ordered


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('€$\u000f\nA\'B"\\\\"/', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
        ("\b\t\n\f\r\x00\x1f\x7f\u2028", '"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\u2028"'),
        ([], "[]"),
        ({}, "{}"),
        ({"b": [1, True, None], "a": -0}, '{"a":0,"b":[1,true,null]}'),
        ((1, 2), "[1,2]"),
        (MAX_SAFE_INTEGER, "9007199254740991"),
    ],
)
def test_canonical__examples(value: Any, text: str) -> None:
    assert canonical_bytes(value) == text.encode()


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        float("inf"),
        MAX_SAFE_INTEGER + 1,
        -MAX_SAFE_INTEGER - 1,
        b"bytes",
        {1: 2},
        {None: 2},
        {"a": {2}},
        "\ud800",
        {"\udfff": 1},
        object(),
        [[1.5]],
    ],
    ids=repr,
)
def test_canonical__outside_restricted_json__is_refused(value: Any) -> None:
    with pytest.raises(InvalidDocument):
        canonical_bytes(value)


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth - 1):
        value = [value]
    return value


def test_canonical__depth__is_limited() -> None:
    canonical_bytes(_nested(MAX_DEPTH))
    parse_json("[" * (MAX_DEPTH - 1) + "0" + "]" * (MAX_DEPTH - 1), LIMIT)
    with pytest.raises(InvalidDocument, match="nested"):
        canonical_bytes(_nested(MAX_DEPTH + 1))
    for depth in (MAX_DEPTH, sys.getrecursionlimit() * 2, LIMIT // 2 - 1):
        with pytest.raises(InvalidDocument, match="nested"):
            parse_json("[" * depth + "0" + "]" * depth, LIMIT)
        with pytest.raises(InvalidDocument):
            parse_json('{"a":' * (depth // 4), LIMIT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "[1,]",
        "{'a':1}",
        "01",
        "+1",
        "1.0",
        "1e2",
        "1E400",
        "-0.0",
        "NaN",
        "Infinity",
        "-Infinity",
        "1" * 18,
        "9007199254740992",
        "1" * 20_000,
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":2}',
        '[{"x":{"b":0,"b":1}}]',
        '"\\ud800"',
        '{"\\udc00":1}',
        '"\x01"',
        '"\ud800"',
        "[] []",
        "\ufeff{}",
        b"\xff",
        b'"\xc3"',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
    ],
    ids=lambda text: repr(text)[:24],
)
def test_parse_json__hostile_text__is_refused(text: Any) -> None:
    with pytest.raises(InvalidDocument):
        parse_json(text, LIMIT)


def test_parse_json__size__is_limited_in_bytes() -> None:
    assert parse_json('"ab"', 4) == "ab"
    for text in ('"abc"', '"é¢"', '"ab"  '):
        with pytest.raises(InvalidDocument, match="longer"):
            parse_json(text, 4)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_parse_json__anything__raises_only_our_error(text: bytes | str) -> None:
    try:
        value = parse_json(text, LIMIT)
    except InvalidDocument:
        return
    assert parse_json(canonical_bytes(value), LIMIT) == value
