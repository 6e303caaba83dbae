"""The types, made from the resources: fields and arguments are those of REST, with links between resources on top.

`leases(owner: "0x…", sort: "-deposit") {data {lease_id offer {kind}} next}`, `lease(lease_id: "0x…") {…}` and
`block {number}`. A request sees one block.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, NewType

import strawberry
from strawberry.schema.config import StrawberryConfig

from indexer.api.columns import Column
from indexer.api.indexed import JsonRow, Pages
from indexer.api.paging import filter_columns, page_query, row_query
from indexer.api.readers import Fetch
from indexer.api.resources import BY_NAME, RESOURCES, Resource

Long = NewType("Long", int)
_TYPES: Mapping[str, Any] = {"number": Long, "flag": bool}
_Arguments = dict[str, Any]
_Resolver = Callable[..., Awaitable[Any]]


class Snapshot(NamedTuple):
    """What a request's resolvers read from."""

    pages: Pages
    fetch: Fetch
    block: JsonRow


@strawberry.type
class Block:
    """The block up to which everything is indexed."""

    number: Long
    hash: str
    time: Long
    final: Long


class Schema(strawberry.Schema):
    """Errors are logged by whoever answers."""

    def process_errors(self, *_: Any, **__: Any) -> None:
        """Strawberry's own would write out what clients sent."""


def make_schema() -> Schema:
    """All resources."""
    # Where strawberry looks for types that are named before they are made.
    known = globals()
    for resource in RESOURCES:
        row = _row_type(resource)
        known[row.__name__] = row
        page = type(f"{row.__name__}Page", (), {"__annotations__": {"data": _list_of(row), "next": str | None}})
        known[page.__name__] = strawberry.type(page, description=f"Some {resource.name}; `next` is for `after`.")
    query: dict[str, Any] = {"block": strawberry.field(resolver=_block, description="What every answer is of.")}
    for resource in RESOURCES:
        query[resource.name] = _page_field(resource, {})
        query[resource.singular] = _row_field(resource, {})
    query["__annotations__"] = {}
    config = StrawberryConfig(
        auto_camel_case=False,
        default_resolver=lambda row, name: row[name],
        disable_field_suggestions=True,
        scalar_map={
            Long: strawberry.scalar(
                name="Long", description="An integer below 2**63.", serialize=int, parse_value=_long
            )
        },
    )
    return Schema(strawberry.type(type("Query", (), query)), config=config)


def _row_type(resource: Resource) -> Any:
    annotations = {name: _output(column) for name, column in resource.columns.items()}
    links: dict[str, Any] = {}
    for name, link in resource.links.items():
        target = BY_NAME[link.to]
        make = _row_field if link.is_single(target) else _page_field
        links[name] = make(target, link.on)
    return strawberry.type(
        type(_name(resource), (), {"__annotations__": annotations, **links}), description=resource.summary
    )


def _list_of(kind: Any) -> Any:
    return list[kind]


def _name(resource: Resource) -> str:
    return "".join(part.capitalize() for part in resource.singular.split("_"))


def _output(column: Column) -> Any:
    found = _TYPES.get(column.kind, str)
    return found | None if column.is_nullable else found


def _page_field(resource: Resource, on: Mapping[str, str]) -> Any:
    """A page of the rows whose columns equal the parent's, by `{column: parent's column}`."""
    arguments = {
        name: _TYPES.get(column.kind, str) | None for name, column, _ in filter_columns(resource) if name not in on
    }

    async def page(root: Any, info: strawberry.Info, **given: Any) -> Any:
        snapshot: Snapshot = info.context
        query = page_query(resource, _parameters(given) | _joined(root, on))
        found = await snapshot.pages.read(query, snapshot.fetch)
        return {"data": found.rows, "next": found.next}

    optional = {**arguments, "sort": str | None, "limit": int | None, "after": str | None}
    resolver = _with_arguments(page, optional, f"{_name(resource)}Page", is_required=False)
    orders = ", ".join(resource.orders)
    return strawberry.field(resolver=resolver, description=f"`sort` is one of {orders}.")


def _row_field(resource: Resource, on: Mapping[str, str]) -> Any:
    """The row whose key is given, or that of the parent's columns."""
    arguments = {name: _TYPES.get(resource.columns[name].kind, str) for name in resource.key if name not in on}

    async def row(root: Any, info: strawberry.Info, **given: Any) -> Any:
        snapshot: Snapshot = info.context
        query = row_query(resource, _parameters(given) | _joined(root, on), {})
        found = await snapshot.pages.read(query, snapshot.fetch)
        return found.rows[0] if found.rows else None

    resolver = _with_arguments(row, arguments, f"{_name(resource)} | None", is_required=True)
    return strawberry.field(resolver=resolver, description=resource.summary)


def _with_arguments(resolver: _Resolver, arguments: _Arguments, result: str, *, is_required: bool) -> _Resolver:
    """The resolver with a signature that names the arguments, from which strawberry takes them."""
    kind = inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if is_required else strawberry.UNSET
    signature = inspect.signature(resolver)
    named = [inspect.Parameter(name, kind, annotation=each, default=default) for name, each in arguments.items()]
    kept = [signature.parameters["root"], signature.parameters["info"].replace(annotation=strawberry.Info)]
    resolver.__signature__ = signature.replace(parameters=[*kept, *named], return_annotation=result)  # type: ignore[attr-defined]
    return resolver


def _block(info: strawberry.Info) -> Block:
    snapshot: Snapshot = info.context
    return snapshot.block  # type: ignore[return-value]  # read by the default resolver


def _parameters(given: _Arguments) -> dict[str, str]:
    return {name: _text(value) for name, value in given.items() if value not in (None, strawberry.UNSET)}


def _joined(root: Any, on: Mapping[str, str]) -> dict[str, str]:
    return {column: _text(root[own]) for column, own in on.items()}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _long(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError("not an integer from 0 to 2**63 - 1")
    return value
