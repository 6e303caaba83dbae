"""What a GraphQL document may cost, judged before it is validated or run.

Every field costs 1, every query of the database 10; a page's costs are taken as often as its `limit` says. Aliases,
fragments and repeated fields count each time. Introspection is free and may follow one list of fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSyntaxError,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    Source,
    TokenKind,
    VariableNode,
    parse,
)
from graphql.language.lexer import Lexer

from indexer.api.errors import ApiError
from indexer.api.paging import DEFAULT_LIMIT, MAX_LIMIT
from indexer.api.resources import BY_NAME, RESOURCES, Resource

MAX_TOKENS = 1_000
MAX_FIELDS = 250
MAX_DEPTH = 10
MAX_COST = 5_000
_QUERY_COST = 10
_MAX_NESTING = 40
_OPENING = (TokenKind.BRACE_L, TokenKind.BRACKET_L, TokenKind.PAREN_L)
_CLOSING = (TokenKind.BRACE_R, TokenKind.BRACKET_R, TokenKind.PAREN_R)
_INTROSPECTION = ("__schema", "__type")
_LISTS = ("types", "fields", "inputFields", "interfaces", "possibleTypes", "enumValues", "args", "directives")
_RECURSIVE = ("fields", "inputFields", "interfaces", "possibleTypes")
_BY_SINGULAR = {resource.singular: resource for resource in RESOURCES}


def check(query: str, variables: Mapping[str, Any], operation: str | None) -> None:
    """Raises ApiError, 400, for a query that is no GraphQL, leaves open which operation to run, or costs too much."""
    try:
        _check_nesting(query)
        document = parse(query, no_location=True, max_tokens=MAX_TOKENS)
    except GraphQLSyntaxError as error:
        raise ApiError(400, "bad_query", error.message, param="query") from error
    _Walk(document, variables).check()
    names = [
        part.name and part.name.value for part in document.definitions if isinstance(part, OperationDefinitionNode)
    ]
    if (len(names) != 1) if operation is None else (names.count(operation) != 1):
        raise ApiError(400, "bad_query", "`operationName` must name one of the query's operations", param="query")


def _check_nesting(query: str) -> None:
    """The parser calls itself for each level."""
    lexer = Lexer(Source(query))
    depth = count = 0
    while (token := lexer.advance()).kind is not TokenKind.EOF:
        depth += (token.kind in _OPENING) - (token.kind in _CLOSING)
        count += 1
        if depth > _MAX_NESTING:
            raise _too("deep", f"nested deeper than {_MAX_NESTING} brackets")
        if count > MAX_TOKENS:
            raise _too("long", f"longer than {MAX_TOKENS} words")


class _Walk:
    def __init__(self, document: DocumentNode, variables: Mapping[str, Any]) -> None:
        parts = document.definitions
        self._operations = [part for part in parts if isinstance(part, OperationDefinitionNode)]
        self._fragments = {part.name.value: part for part in parts if isinstance(part, FragmentDefinitionNode)}
        self._variables = variables
        self._defaults: dict[str, Any] = {}
        self._fields = 0
        self._type_lists = 0

    def check(self) -> None:
        for operation in self._operations:
            self._defaults = {
                each.variable.name.value: each.default_value for each in operation.variable_definitions or ()
            }
            cost = self._selections(operation.selection_set, None, 1, ())
            if cost > MAX_COST:
                raise _too("costly", f"its cost is {cost}, the most is {MAX_COST}: take lower limits or fewer fields")

    def _selections(
        self, selected: SelectionSetNode, resource: Resource | None, depth: int, spread: tuple[str, ...]
    ) -> int:
        return sum(self._field(field, resource, depth, inside) for field, inside in self._fields_of(selected, spread))

    def _fields_of(
        self, selected: SelectionSetNode, spread: tuple[str, ...]
    ) -> Iterator[tuple[FieldNode, tuple[str, ...]]]:
        """Its fields, those of fragments too, each with the fragments it came through."""
        for selection in selected.selections:
            # Spreads count as well: fragments that only spread each other would double with each.
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise _too("long", f"more than {MAX_FIELDS} fields, fragments taken as often as they are spread")
            if isinstance(selection, FieldNode):
                yield selection, spread
            elif isinstance(selection, InlineFragmentNode):
                yield from self._fields_of(selection.selection_set, spread)
            elif isinstance(selection, FragmentSpreadNode):
                name = selection.name.value
                if name in spread:
                    raise ApiError(400, "bad_query", f"fragment {name[:100]} contains itself", param="query")
                fragment = self._fragments.get(name)
                if fragment is not None:
                    yield from self._fields_of(fragment.selection_set, (*spread, name))

    def _field(self, field: FieldNode, resource: Resource | None, depth: int, spread: tuple[str, ...]) -> int:
        name = field.name.value
        if name in _INTROSPECTION:
            self._introspection(field, (), spread)
            return 1
        if depth > MAX_DEPTH:
            raise _too("deep", f"deeper than {MAX_DEPTH} fields")
        if field.selection_set is None:
            return 1
        target, is_page = self._target(name, resource)
        if target is None:
            return 1 + self._selections(field.selection_set, resource, depth + 1, spread)
        inner = self._selections(field.selection_set, target, depth + 1, spread)
        return _QUERY_COST + inner * (self._limit(field) if is_page else 1)

    def _target(self, name: str, resource: Resource | None) -> tuple[Resource | None, bool]:
        """The resource a field reads and whether a page of it; none for a page's own fields."""
        if resource is None:
            return (BY_NAME[name], True) if name in BY_NAME else (_BY_SINGULAR.get(name), False)
        link = resource.links.get(name)
        if link is None:
            return None, False
        target = BY_NAME[link.to]
        return target, not link.is_single(target)

    def _limit(self, field: FieldNode) -> int:
        for argument in field.arguments or ():
            if argument.name.value == "limit":
                value: Any = argument.value
                if isinstance(value, VariableNode):
                    name = value.name.value
                    value = self._variables.get(name, self._defaults.get(name))
                if value is None:
                    return DEFAULT_LIMIT
                if isinstance(value, IntValueNode):
                    value = int(value.value) if len(value.value) < 10 else MAX_LIMIT
                # Any other value is refused when the query is run.
                return min(value, MAX_LIMIT) if isinstance(value, int) and value > 0 else MAX_LIMIT
        return DEFAULT_LIMIT

    def _introspection(self, field: FieldNode, lists: tuple[str, ...], spread: tuple[str, ...]) -> None:
        name = field.name.value
        if name in _LISTS:
            lists = (*lists, name)
            self._type_lists += name == "types"
            if self._type_lists > 1 or sum(each in _RECURSIVE for each in lists) > 1:
                raise _too("costly", "introspection may list the types once and follow one list of fields")
        if field.selection_set is not None:
            for inner, inside in self._fields_of(field.selection_set, spread):
                self._introspection(inner, lists, inside)


def _too(what: str, message: str) -> ApiError:
    return ApiError(400, f"query_too_{what}", f"the query is too {what}: {message}", param="query")
