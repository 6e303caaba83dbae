"""JSON schemas of strangers: what a grammar can't keep is refused, quickly, and nothing of them is read as grammar."""

import time
from typing import Any

import llama_cpp
import pytest
from llama_cpp.llama_grammar import json_schema_to_gbnf

from provider.backend import JsonOutput
from provider.engine.errors import GenerationError
from provider.engine.grammar import gbnf
from provider.engine.llama import Model
from provider.engine.schema import MAX_REPETITIONS, strict_schema
from tests.support.engines import tiny_model

QUICK_S = 1.0


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(depth: int) -> dict[str, Any]:
    """Unions whose paths double with every definition: llama.cpp walks them all."""
    definitions: dict[str, Any] = {str(depth): {"type": "object"}}
    for level in range(depth):
        below = {"$ref": f"#/$defs/{level + 1}"}
        definitions[str(level)] = {"anyOf": [below, {"anyOf": [below, {"type": "null"}]}]}
    return {"$defs": definitions, "$ref": "#/$defs/0"}


HOSTILE: dict[str, dict[str, Any]] = {
    "deep": nested(500),
    "doubling unions": doubling(18),
    "reference to itself": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "union of itself": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "$ref": "#/$defs/a"},
    "remote reference": {"$ref": "https://example.org/schema"},
    "reference by path": {"properties": {"a": {}}, "$defs": {"a": {"$ref": "#/properties/a"}}, "type": "object"}
    | {"properties": {"b": {"$ref": "#/$defs/a"}}},
    "many items": {"type": "array", "items": {"type": "string"}, "maxItems": 10**15},
    "many characters": {"type": "string", "minLength": 10**15},
    "repetitions that add up": {"type": "array", "items": {"type": "string", "maxLength": 1_500}, "maxItems": 1_000},
    "pattern": {"type": "string", "pattern": "^(a?){60}b$"},
    "many values": {"enum": list(range(10_000))},
    "many arrays": {"anyOf": [{"type": "array", "minItems": number} for number in range(30)]},
    "many objects": {"anyOf": [{"properties": {str(number): {}}} for number in range(30)]},
    "many properties": {"type": "object", "properties": {str(number): True for number in range(200)}},
    "half a character": {"enum": ["\ud800"]},
    "no JSON": {"enum": [float("nan")]},
    "unknown keyword": {"type": "integer", "minimum": 3},
    "nothing left": {"type": "string", "enum": [1]},
    "empty union": {"anyOf": []},
    "bounds crossed": {"type": "string", "minLength": 3, "maxLength": 2},
    "negative bound": {"type": "string", "minLength": -1},
    "missing property": {"type": "object", "properties": {"a": {}}, "required": ["b"]},
    "no schema": {"type": "object", "properties": {"a": 5}},
    "no list": {"anyOf": 5},
    "no definitions": {"$defs": 5, "$ref": "#/$defs/x"},
    "no names": {"type": "object", "properties": {"a": {}}, "required": [[]]},
    "type of types": {"type": {}},
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_cannot_be_kept_is_refused_quickly(schema: dict[str, Any]) -> None:
    started = time.process_time()
    with pytest.raises(GenerationError) as failure:
        gbnf(JsonOutput(schema))
    assert failure.value.code == "bad_schema"
    assert time.process_time() - started < QUICK_S


USUAL: dict[str, dict[str, Any]] = {
    "any object": {},
    "tree": {
        "$defs": {
            "node": {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "type": "object"}
        },
        "$ref": "#/$defs/node",
    },
    "names of the converter": {
        "$defs": {"space": {"type": "string"}, "root": {"type": "integer"}, "char": {"type": "null"}},
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in ("space", "root", "char")},
    },
    "keywords as names": {"type": "object", "properties": {name: {} for name in ("anyOf", "$ref", "enum", "items")}},
    "longest": {"type": "string", "maxLength": MAX_REPETITIONS},
    "most items": {"type": "array", "items": {"type": "string"}, "minItems": 900, "maxItems": MAX_REPETITIONS},
    "many properties": {"type": "object", "properties": {f"name{number}": {"type": "array"} for number in range(100)}},
    "titles": {"title": "T", "type": "object", "properties": {"a": {"title": "A", "default": 1, "type": "integer"}}},
    "one of all": {"allOf": [{"type": "boolean"}]},
}


@pytest.mark.parametrize("schema", USUAL.values(), ids=USUAL.keys())
def test_usual_schemas_make_grammars(schema: dict[str, Any], model: Model) -> None:
    started = time.process_time()
    assert parses(gbnf(JsonOutput(schema)), model)
    assert time.process_time() - started < QUICK_S


INJECTION = '"\nroot ::= "injected"\nunused ::= "'


@pytest.mark.parametrize(
    "schema",
    [{"enum": [INJECTION]}, {"type": "object", "properties": {"a\\" + INJECTION[:50]: {"type": "null"}}}],
    ids=["value", "name"],
)
def test_text_of_a_schema_is_no_grammar(schema: dict[str, Any], model: Model) -> None:
    grammar = gbnf(JsonOutput(schema, before=INJECTION, after=INJECTION))
    assert parses(grammar, model)
    assert sum(line.startswith("root ::=") for line in grammar.splitlines()) == 1
    assert not any(line.startswith("unused") for line in grammar.splitlines())


def test_the_converter_alone_lets_a_schema_write_grammar() -> None:
    """The control of the test above: what is closed here is open there."""
    grammar = json_schema_to_gbnf('{"enum": ["\\" | [a-z]* | \\""]}')
    assert r'\\" | [a-z]* | \\"' in grammar


def test_types_are_told_apart() -> None:
    assert strict_schema({"type": ["integer", "number", "null"]}) == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert strict_schema({"enum": [1, "a", True, None], "type": ["string", "null"]}) == {"enum": ["a", None]}
    assert strict_schema({"minLength": 2}) == {"type": "string", "minLength": 2}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny_model(), vocabulary_only=True)


def parses(grammar: str, model: Model) -> bool:
    sampler = llama_cpp.llama_sampler_init_grammar(model.vocabulary, grammar.encode(), b"root")
    if sampler:
        llama_cpp.llama_sampler_free(sampler)
    return bool(sampler)
