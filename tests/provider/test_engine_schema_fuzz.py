"""JSON schemas of strangers: whatever they are, a grammar of bounded size or one clear refusal."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.engine.errors import GenerationError
from provider.engine.readings import check_readings
from provider.engine.schema import TYPES, strict_schema

SOAK_INPUTS = 300_000
_KEYS = (
    "type", "properties", "required", "items", "prefixItems", "anyOf", "oneOf", "allOf", "enum", "const", "$ref",
    "$defs", "definitions", "minItems", "maxItems", "minLength", "maxLength", "additionalProperties", "format", "title",
    "pattern", "x",
)  # fmt: skip
_LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**70, 0.5, "", "a", "#", "#/$defs/a", "#/$defs/../a", "#/definitions/a", [], {}, *TYPES,
)  # fmt: skip


def schema(chance: random.Random, depth: int) -> Any:
    """Something like a schema, with anything at any place."""
    kind = chance.random()
    if depth == 0 or kind < 0.15:
        return chance.choice(_LEAVES)
    if kind < 0.35:
        return [schema(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind < 0.5:
        return {chance.choice("abc"): schema(chance, depth - 1) for _ in range(chance.randrange(4))}
    return {chance.choice(_KEYS): schema(chance, depth - 1) for _ in range(chance.randint(1, 4))}


def check(chance: random.Random) -> None:
    """One schema: strict, with few readings, or refused as `bad_schema`."""
    found = {"$defs": {"a": schema(chance, 3)}, chance.choice(_KEYS): schema(chance, 4), "type": "object"}
    try:
        strict = strict_schema(found)
        check_readings(strict)
    except GenerationError as error:
        refusal = error
    else:
        return
    assert refusal.code == "bad_schema"
    assert len(str(refusal)) < 10_000


@settings(max_examples=400)
@given(st.integers(0, 2**64 - 1))
def test_anything_for_a_schema(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        check(chance)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_many_schemas() -> None:
    chance = random.Random(20_261_126)
    for _ in range(SOAK_INPUTS):
        check(chance)


def test_an_object_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(GenerationError, match="malformed"):
        strict_schema({"properties": {"a": {"allOf": {"b": {}}}}})
