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


def forms_of(count: int, value: dict[str, Any], *required: str) -> list[dict[str, Any]]:
    """Objects that begin alike, and end differently."""
    return [
        {"type": "object", "properties": {"a": value, f"b{number}": {"type": "null"}}, "required": ["a", *required]}
        for number in range(count)
    ]


def expression(*, tells_first: bool) -> dict[str, Any]:
    """A tree whose nodes say what they are, first or last."""
    inner = {"$ref": "#/$defs/node"}
    nodes = []
    for kind in ("sum", "product", "difference"):
        said = {"kind": {"const": kind}}
        members = {"left": inner, "right": inner}
        properties = {**said, **members} if tells_first else {**members, **said}
        nodes.append({"type": "object", "properties": properties, "required": list(properties)})
    return {"$defs": {"node": {"anyOf": [*nodes, {"type": "number"}]}}, "$ref": "#/$defs/node"}


BRANCHING: dict[str, dict[str, Any]] = {
    "a union within itself": {"$defs": {"A": {"anyOf": forms_of(2, {"$ref": "#/$defs/A"})}}, "$ref": "#/$defs/A"},
    "unions within unions": {"anyOf": forms_of(5, {"anyOf": forms_of(4, {"type": "string"})})},
    "through an array": {
        "$defs": {"A": {"anyOf": forms_of(2, {"type": "array", "items": {"$ref": "#/$defs/A"}})}},
        "$ref": "#/$defs/A",
    },
    "by two names": {
        "$defs": {
            "A": {"anyOf": forms_of(2, {"$ref": "#/$defs/B"})},
            "B": {"anyOf": forms_of(2, {"$ref": "#/$defs/A"})},
        },
        "$ref": "#/$defs/A",
    },
    "any object, or one": {"$defs": {"A": {"anyOf": [{"type": "object"}, *forms_of(1, {"$ref": "#/$defs/A"})]}}}
    | {"$ref": "#/$defs/A"},
    "a tree told apart at its end": expression(tells_first=False),
}


@pytest.mark.parametrize("schema", BRANCHING.values(), ids=BRANCHING.keys())
def test_a_schema_with_ever_more_readings_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match="readings open"):
        gbnf(JsonOutput(schema))


@pytest.mark.parametrize(
    "schema",
    [
        expression(tells_first=True),
        {"anyOf": forms_of(16, {"type": "string"})},
        {"anyOf": forms_of(4, {"anyOf": forms_of(4, {"type": "string"})})},
        {"$defs": {"n": {"anyOf": [*forms_of(1, {"$ref": "#/$defs/n"}), {"type": "null"}]}}, "$ref": "#/$defs/n"},
    ],
    ids=["a tree told apart at once", "sixteen", "four by four", "a list"],
)
def test_a_schema_with_few_readings_is_kept(schema: dict[str, Any], model: Model) -> None:
    assert parses(gbnf(JsonOutput(schema)), model)


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
