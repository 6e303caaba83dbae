"""How many ways of reading an answer a schema may keep open at once.

llama.cpp follows all of them with every character. What tells the objects of a union apart may come late in them, or
never; inside such a union another one multiplies the readings, so that one that contains itself has no bound.
"""

import json
from collections.abc import Iterator
from typing import Any

from provider.engine.errors import GenerationError

MAX_READINGS = 16
_MAX_ROUNDS = 32


def check_readings(strict: dict[str, Any]) -> None:
    """Raises GenerationError `bad_schema` for a strict schema with too many; see `schema.strict_schema`."""
    definitions: dict[str, Any] = strict.get("$defs", {})
    known = dict.fromkeys(definitions, 1)
    for _ in range(_MAX_ROUNDS):
        found = {name: _readings(definitions[name], definitions, known) for name in reversed(definitions)}
        if found == known:
            break
        known = found
    else:
        raise _too_many()
    _readings({key: value for key, value in strict.items() if key != "$defs"}, definitions, known)


def _readings(node: dict[str, Any], definitions: dict[str, Any], known: dict[str, int]) -> int:
    if "$ref" in node:
        return known[_name(node)]
    if "anyOf" in node:
        most = _of_union(node["anyOf"], definitions, known)
    else:
        most = max((_readings(part, definitions, known) for part in _parts(node)), default=1)
    if most > MAX_READINGS:
        raise _too_many()
    return most


def _of_union(forms: list[dict[str, Any]], definitions: dict[str, Any], known: dict[str, int]) -> int:
    """Of the objects that may begin alike all are open at once."""
    most = 1
    alike: list[tuple[int, list[dict[str, Any]]]] = []
    for form in forms:
        readings = _readings(form, definitions, known)
        most = max(most, readings)
        objects = list(_objects(form, definitions))
        if not objects:
            continue
        kept = []
        for others, members in alike:
            if any(_may_begin_alike(one, other, definitions) for one in objects for other in members):
                readings += others
                objects += members
            else:
                kept.append((others, members))
        alike = [*kept, (readings, objects)]
    return max([most, *(readings for readings, _ in alike)])


def _objects(node: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects that a form may be."""
    if "$ref" in node:
        yield from _objects(definitions[_name(node)], definitions)
    elif "anyOf" in node:
        for form in node["anyOf"]:
            yield from _objects(form, definitions)
    elif "object" in node.get("type", ()):
        yield node


def _may_begin_alike(one: dict[str, Any], other: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether something else than its first property tells two objects apart."""
    first, second = _first(one), _first(other)
    if first is None or second is None:
        return True
    return any(
        first[name] is None or second[name] is None or not _differ(first[name], second[name], definitions)
        for name in first.keys() & second.keys()
    )


def _first(node: dict[str, Any]) -> dict[str, Any] | None:
    """What an object may begin with, with the values; None for anything. Required properties come first."""
    properties = node.get("properties")
    if properties is None:
        return None
    required = node.get("required", [])
    return {required[0]: properties[required[0]]} if required else dict(properties)


def _differ(one: dict[str, Any], other: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether no value is both's."""
    left, right = _values(one, definitions), _values(other, definitions)
    return left is not None and right is not None and not left & right


def _values(node: dict[str, Any], definitions: dict[str, Any]) -> set[str] | None:
    if "$ref" in node:
        return _values(definitions[_name(node)], definitions)
    return {json.dumps(value, sort_keys=True) for value in node["enum"]} if "enum" in node else None


def _parts(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from node.get("properties", {}).values()
    yield from node.get("prefixItems", [])
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield node[key]


def _name(node: dict[str, Any]) -> str:
    return str(node["$ref"]).removeprefix("#/$defs/")


def _too_many() -> GenerationError:
    return GenerationError(
        "bad_schema",
        f"the JSON schema cannot be kept: its unions leave more than {MAX_READINGS} readings open; let each object of "
        "a union begin with a required property whose value, an `enum` or `const`, tells it from the others",
    )
