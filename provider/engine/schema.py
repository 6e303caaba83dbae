"""JSON schemas of strangers, cut down to what a grammar keeps: every answer it allows is valid under the schema.

Keywords that restrict and that the grammar can't keep are refused, never ignored. Annotations (`title`, `default`, …)
and unknown `format`s restrict nothing. `oneOf` is read as `anyOf`. `$ref` works for `#/$defs/…` and `#/definitions/…`.

What is bounded, and why: llama.cpp checks a grammar by recursion over all its readings, so its work grows with the
power of what is ambiguous (up to 16 object forms in a union, one form of everything else), and it looks for left
recursion by walking every path of unions (`MAX_ALTERNATIVES`). It follows all readings of an answer (`readings`).
"""

import json
from typing import Any

from provider.engine.errors import GenerationError
from provider.engine.readings import check_readings

MAX_BYTES = 32 * 1024
MAX_DEPTH = 24
MAX_NODES = 1_000
MAX_ALTERNATIVES = 256
MAX_OBJECT_FORMS = 16
MAX_PROPERTIES = 100
MAX_NAME = 64
MAX_REPETITIONS = 2_000
"""In all: the sum of what `minItems`, `maxItems`, `minLength` and `maxLength` ask for."""

TYPES = ("object", "array", "string", "number", "boolean", "null")
ANY: dict[str, Any] = {"type": list(TYPES)}

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"}
    | {"$schema", "$id", "$comment", "$defs", "definitions", "format"}
)
_OF_TYPE = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength"}),
    "number": frozenset[str](),
    "integer": frozenset[str](),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_KNOWN = _ANNOTATIONS.union(*_OF_TYPE.values()) | {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})


def bad_schema(reason: str) -> GenerationError:
    """The refusal of a schema."""
    return GenerationError("bad_schema", f"the JSON schema cannot be kept: {reason}")


def strict_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema in the few forms the converter keeps; {} is any object. Raises GenerationError `bad_schema`."""
    try:
        size = len(json.dumps(schema, allow_nan=False, ensure_ascii=False).encode())
        if size > MAX_BYTES:
            raise bad_schema(f"it has {size} bytes, the most are {MAX_BYTES}")
        return _Strict(schema).run()
    except RecursionError:
        raise bad_schema("it is nested too deeply") from None
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise bad_schema(f"it is malformed: {error}") from None


class _Strict:
    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._definitions: dict[str, Any] = {}
        self._nodes = 0
        self._repetitions = 0

    def run(self) -> dict[str, Any]:
        root = self._node(self._root, 0) if set(self._root) - _ANNOTATIONS else {"type": "object"}
        strict = {**root, "$defs": self._definitions} if self._definitions else root
        _Unions(strict).check()
        check_readings(strict)
        return strict

    def _node(self, schema: Any, depth: int) -> dict[str, Any]:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise bad_schema(f"it has more than {MAX_DEPTH} levels or {MAX_NODES} parts")
        if schema is True:
            return ANY
        if not isinstance(schema, dict):
            raise bad_schema("a part of it is not an object")
        if unknown := set(schema) - _KNOWN:
            raise bad_schema(f"keyword {min(unknown)!r} is not supported")
        words = set(schema) - _ANNOTATIONS
        if "$ref" in words:
            self._only(words, "$ref")
            return {"$ref": self._reference(schema["$ref"], depth)}
        if "allOf" in words:
            self._only(words, "allOf")
            if len(schema["allOf"]) != 1:
                raise bad_schema("`allOf` of more than one part is not supported")
            return self._node(schema["allOf"][0], depth + 1)
        for union in ("anyOf", "oneOf"):
            if union in words:
                self._only(words, union)
                return self._any_of([self._node(each, depth + 1) for each in schema[union]])
        if "enum" in words or "const" in words:
            return self._values(schema, words)
        return self._typed(schema, words, depth)

    def _only(self, words: set[str], keyword: str) -> None:
        if words != {keyword}:
            raise bad_schema(f"`{keyword}` beside {min(words - {keyword})!r} is not supported")

    def _reference(self, reference: Any, depth: int) -> str:
        parts = str(reference).split("/")
        if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions"):
            raise bad_schema(f"reference {str(reference)[:80]!r} is not one to `#/$defs/`")
        name = parts[2].replace("~1", "/").replace("~0", "~")
        if name not in self._root.get(parts[1], {}):
            raise bad_schema(f"reference {str(reference)[:80]!r} leads nowhere")
        key = f"{parts[1]} {name}".replace("/", " ")
        if key not in self._definitions:
            self._definitions[key] = {}
            self._definitions[key] = self._node(self._root[parts[1]][name], depth + 1)
        return f"#/$defs/{key}"

    def _any_of(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        distinct = list({json.dumps(part): part for part in parts}.values())
        if not distinct:
            raise bad_schema("an empty union allows nothing")
        return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}

    def _values(self, schema: dict[str, Any], words: set[str]) -> dict[str, Any]:
        if extra := words - {"enum", "const", "type"}:
            raise bad_schema(f"`enum` beside {min(extra)!r} is not supported")
        values = [schema["const"]] if "const" in words else list(schema["enum"])
        if "enum" in words:
            values = [value for value in values if any(_same(value, each) for each in schema["enum"])]
        types = _types(schema) if "type" in words else None
        allowed = [value for value in values if types is None or any(_is_of(value, each) for each in types)]
        distinct = list({json.dumps(value, allow_nan=False): value for value in allowed}.values())
        if not distinct:
            raise bad_schema("an `enum` allows no value")
        return {"enum": distinct}

    def _typed(self, schema: dict[str, Any], words: set[str], depth: int) -> dict[str, Any]:
        types = _types(schema) if "type" in words else [each for each, own in _OF_TYPE.items() if own & words]
        if not types:
            return ANY
        if "type" not in words and len(types) > 1:
            raise bad_schema(f"it has keywords of several types and no `type`: {', '.join(types)}")
        return self._any_of([self._of_type(each, schema, depth) for each in types])

    def _of_type(self, kind: str, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case _:
                return {"type": kind}

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        if missing := set(schema.get("required", [])) - set(properties):
            raise bad_schema(f"required property {min(missing)[:MAX_NAME]!r} is not among its properties")
        if not properties:
            if others is False:
                return {"enum": [{}]}
            return {
                "type": "object",
                **({} if others is True else {"additionalProperties": self._node(others, depth + 1)}),
            }
        if len(properties) > MAX_PROPERTIES:
            raise bad_schema(f"an object has more than {MAX_PROPERTIES} properties")
        for name in properties:
            if not 0 < len(name) <= MAX_NAME or name == "*":
                raise bad_schema(
                    f"property name {name[:MAX_NAME]!r} is empty, `*` or longer than {MAX_NAME} characters"
                )
        return {
            "type": "object",
            "properties": {name: self._node(each, depth + 1) for name, each in properties.items()},
            "required": [name for name in properties if name in set(schema.get("required", []))],
            "additionalProperties": False,
        }

    def _array(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        least, most = self._bounds(schema, "minItems", "maxItems")
        items = schema.get("items", True)
        tuple_items = schema.get("prefixItems", items if isinstance(items, list) else [])
        if tuple_items:
            if least > len(tuple_items):
                raise bad_schema("`minItems` exceeds the number of `prefixItems`")
            kept = tuple_items[:most] if most is not None else tuple_items
            parts = [self._node(each, depth + 1) for each in kept]
            return {"type": "array", "prefixItems": parts} if parts else {"enum": [[]]}
        bounds = {"minItems": least} if most is None else {"minItems": least, "maxItems": most}
        return {"type": "array", "items": self._node(items, depth + 1), **bounds}

    def _string(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "minLength" in schema or "maxLength" in schema:
            least, most = self._bounds(schema, "minLength", "maxLength")
            return {"type": "string", "minLength": least, **({} if most is None else {"maxLength": most})}
        if schema.get("format") in _FORMATS:
            return {"type": "string", "format": schema["format"]}
        return {"type": "string"}

    def _bounds(self, schema: dict[str, Any], lower: str, upper: str) -> tuple[int, int | None]:
        least, most = schema.get(lower, 0), schema.get(upper)
        for bound in (least, most):
            if bound is not None and (type(bound) is not int or bound < 0):
                raise bad_schema(f"{lower} and {upper} must be whole numbers from 0")
        if most is not None and most < least:
            raise bad_schema(f"{upper} is less than {lower}")
        self._repetitions += least if most is None else most
        if self._repetitions > MAX_REPETITIONS:
            raise bad_schema(f"its lengths add up to more than {MAX_REPETITIONS}")
        return least, most


class _Unions:
    """Looks through references at what each union may start with."""

    def __init__(self, strict: dict[str, Any]) -> None:
        self._root = strict
        self._open: set[str] = set()
        self._forms: dict[str, list[str]] = {}

    def check(self) -> None:
        """Raises GenerationError `bad_schema` for a union with too many forms, or a reference that leads to itself."""
        todo = [self._root, *self._root.get("$defs", {}).values()]
        while todo:
            node = todo.pop()
            self._check_forms(self._forms_of(node))
            todo += node.get("properties", {}).values()
            todo += node.get("anyOf", []) + node.get("prefixItems", [])
            todo += [node[key] for key in ("items", "additionalProperties") if isinstance(node.get(key), dict)]

    def _check_forms(self, forms: list[str]) -> None:
        if len(forms) > MAX_ALTERNATIVES:
            raise bad_schema(f"a union allows more than {MAX_ALTERNATIVES} forms")
        if forms.count("object") > MAX_OBJECT_FORMS:
            raise bad_schema(f"a union allows more than {MAX_OBJECT_FORMS} forms of objects")
        for kind in ("array", "string", "number"):
            if forms.count(kind) > 1:
                raise bad_schema(f"a union allows more than one form of {kind}s")

    def _forms_of(self, node: dict[str, Any]) -> list[str]:
        if "$ref" in node:
            return self._forms_of_reference(node["$ref"])
        if "anyOf" in node:
            forms: list[str] = []
            for part in node["anyOf"]:
                forms += self._forms_of(part)
                self._check_forms(forms)
            return forms
        if "enum" in node:
            return ["value"] * len(node["enum"])
        kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
        return ["number" if kind == "integer" else kind for kind in kinds]

    def _forms_of_reference(self, reference: str) -> list[str]:
        if reference in self._open:
            raise bad_schema("a reference leads to itself")
        if reference not in self._forms:
            self._open.add(reference)
            self._forms[reference] = self._forms_of(self._root["$defs"][reference.removeprefix("#/$defs/")])
            self._open.remove(reference)
        return self._forms[reference]


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for each in types:
        if each not in _OF_TYPE:
            raise bad_schema(f"type {str(each)[:40]!r} is unknown")
    return [each for each in dict.fromkeys(types) if not (each == "integer" and "number" in types)]


def _same(left: Any, right: Any) -> bool:
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def _is_of(value: Any, kind: str) -> bool:
    match kind:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)
