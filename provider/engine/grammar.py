"""JSON schemas into llama.cpp's grammars (GBNF), by llama_cpp's converter with its leaks closed.

The converter writes names and constants into the grammar without escaping backslashes, so that a schema could write
rules of its own; it allows control characters in strings, which are no JSON; and it names definitions after the schema,
where they meet its own rules. Literals, characters and names are ours here.
"""

import json
import re
from typing import Any

from llama_cpp.llama_grammar import PRIMITIVE_RULES, BuiltinRule, SchemaConverter

from provider.backend import JsonOutput
from provider.engine.errors import GenerationError
from provider.engine.schema import bad_schema, strict_schema

MAX_GRAMMAR_BYTES = 512 * 1024
MAX_AFFIX_BYTES = 1024
_HEX = "[0-9a-fA-F]"
# no control characters, and no escaped halves of surrogate pairs, which would count twice
_CHAR = (
    r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] '
    + f"{_HEX} {_HEX} {_HEX} | [dD] [0-7] {_HEX} {_HEX}))"
)
_PRIMITIVES = {**PRIMITIVE_RULES, "char": BuiltinRule(_CHAR, [])}
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f]')


def gbnf(output: JsonOutput) -> str:
    """The grammar of an answer. Raises GenerationError `bad_schema`."""
    converter = _Converter()
    schema = strict_schema(output.schema)
    try:
        name = converter.convert(schema)
        before, after = _affix(output.before), _affix(output.after)
        grammar = converter.text()
    except (RecursionError, AssertionError, KeyError, ValueError) as error:
        raise bad_schema(f"{type(error).__name__}: {error}") from None
    grammar = f"root ::= {before} {name} {after}\n{grammar}\n"
    if len(grammar.encode()) > MAX_GRAMMAR_BYTES:
        raise bad_schema(f"its grammar exceeds {MAX_GRAMMAR_BYTES} bytes")
    return grammar


def _affix(text: str) -> str:
    if len(text.encode()) > MAX_AFFIX_BYTES:
        raise GenerationError("bad_request", f"text around the JSON exceeds {MAX_AFFIX_BYTES} bytes")
    return _literal(text) if text else ""


def _literal(text: str) -> str:
    return '"' + _ESCAPED.sub(lambda match: f"\\x{ord(match[0]):02X}", text) + '"'


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


class _Converter(SchemaConverter):
    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)  # type: ignore[no-untyped-call]
        self._names: dict[str, str] = {}

    def convert(self, schema: dict[str, Any]) -> str:
        """Adds the rules of a strict schema; returns the name of its rule."""
        self._refs = {f"#/$defs/{name}": each for name, each in schema.get("$defs", {}).items()}
        for name, rule in _PRIMITIVES.items():
            self._rule(name, rule.content)
        root = {key: value for key, value in schema.items() if key != "$defs"}
        return self.visit(root, "json")

    def text(self) -> str:
        """All rules."""
        return str(self.format_grammar())  # type: ignore[no-untyped-call]

    def visit(self, schema: dict[str, Any], name: str) -> str:
        """The name of a schema's rule. Repetitions leave in llama.cpp's short form, the converter's is too deep."""
        least, most = schema.get("minItems", schema.get("minLength")), schema.get("maxItems", schema.get("maxLength"))
        if least is None:
            return str(super().visit(schema, name))  # type: ignore[no-untyped-call]
        if schema["type"] == "string":
            return self._rule(name, f'"\\"" char{_times(least, most)} "\\"" space')
        if most == 0:
            return self._rule(name, '"[" space "]" space')
        item = self.visit(schema["items"], f"{name}-item")
        more = self._rule(f"{name}-more", f'"," space {item}')
        items = self._rule(f"{name}-items", f"{item} {more}{_times(max(least - 1, 0), most and most - 1)}")
        return self._rule(name, f'"[" space {items}{"" if least else "?"} "]" space')

    def _rule(self, name: str, rule: str) -> str:
        return str(self._add_rule(name, rule))  # type: ignore[no-untyped-call]

    def _resolve_ref(self, ref: str) -> str:
        if ref not in self._names:
            self._names[ref] = name = f"json-ref-{len(self._names)}-of-schema"
            self._rules[name] = ""
            self._rules[name] = self.visit(self._refs[ref], name)
        return self._names[ref]

    def _add_primitive(self, name: str, rule: BuiltinRule) -> str:
        return str(super()._add_primitive(name, _PRIMITIVES.get(name, rule)))

    def _format_literal(self, literal: str) -> str:
        """Every literal of the converter is JSON text; it leaves as UTF-8, as models write it."""
        return _literal(json.dumps(json.loads(literal), ensure_ascii=False))
