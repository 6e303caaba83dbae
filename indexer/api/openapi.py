"""The OpenAPI document, made from the resources."""

from __future__ import annotations

from functools import cache
from typing import Any

from indexer.api.columns import Column
from indexer.api.paging import DEFAULT_LIMIT, MAX_LIMIT, filter_columns
from indexer.api.resources import RESOURCES, Resource

Json = dict[str, Any]
_NUMBER = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**63 - 1}
_SCHEMAS: dict[str, Json] = {
    "number": _NUMBER,
    "uint256": {"type": "string", "pattern": "^[0-9]{1,78}$", "description": "A decimal integer of token base units"},
    "address": {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$", "description": "An address in EIP-55 form"},
    "bytes": {"type": "string", "pattern": "^0x([0-9a-fA-F]{2}){0,4096}$"},
    "flag": {"type": "boolean"},
    "text": {"type": "string", "pattern": "^[ -~]{1,100}$"},
}
_EXAMPLES: dict[str, Any] = {
    "number": 1,
    "uint256": "1000000",
    "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "bytes": "0x" + "07" * 32,
    "flag": True,
    "text": "owner",
}
_TIME = 1_767_225_600
_BLOCK = {"number": 1234, "hash": "0x" + "ab" * 32, "time": _TIME, "final": 1224}
_MIN_BLOCK = {
    "name": "min_block",
    "in": "query",
    "description": "Wait until this block is indexed, so that one's own transaction in it is seen",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
}
_HEADERS = {
    "X-Indexed-Block": {"description": "The block the answer is of", "schema": {"type": "integer"}},
    "ETag": {"description": "For If-None-Match", "schema": {"type": "string"}},
}
_ERRORS = {
    "400": "A parameter is unknown, given twice or cannot be read",
    "409": "`min_block` is not indexed in time",
    "414": "The address is too long",
    "431": "The headers are too long",
    "429": "Too many requests: see Retry-After",
    "503": "The database cannot answer now: see Retry-After",
}


@cache
def document() -> Json:
    """The whole document."""
    paths = {"/v1/status": _path("status", status())}
    for resource in RESOURCES:
        key = "/".join(f"{{{name}}}" for name in resource.key)
        paths[f"/v1/{resource.name}"] = _path(resource.name, rows(resource))
        paths[f"/v1/{resource.name}/{key}"] = _path(f"{resource.name}_one", row(resource))
        paths[f"/v1/live/{resource.name}"] = _path(f"{resource.name}_live", live(resource))
    paths["/v1/reputation"] = _path("reputation", reputation())
    paths["/v1/statistics"] = _path("statistics", statistics())
    paths["/graphql"] = _path("graphql", graphql(), method="post")
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenClaw Compute Market: indexer", "version": "1"},
        "paths": paths,
        "components": components(),
    }


def _path(name: str, operation: Json, method: str = "get") -> Json:
    return {method: {**operation, "operationId": name}}


def components() -> Json:
    """The schemas that the routes refer to."""
    named = {resource.singular: _row_schema(resource) for resource in RESOURCES}
    return {"schemas": {**named, "block": _block_schema(), "error": _error_schema()}}


def rows(resource: Resource) -> Json:
    """A page of rows."""
    after = {
        "name": "after",
        "in": "query",
        "description": "`next` of the page before",
        "schema": {"type": "string", "maxLength": 4096},
    }
    data = {"type": "array", "items": _reference(resource.singular)}
    content = {"data": data, "next": {"type": ["string", "null"], "description": "The cursor of the page behind"}}
    example = {"data": [_example(resource)], "next": None, "block": _BLOCK}
    parameters = [*_page_parameters(resource), after]
    return _operation(f"{resource.name}: {resource.summary}", parameters, content, example)


def live(resource: Resource) -> Json:
    """The first page as server-sent events."""
    operation = _operation(f"{resource.name}, live", _page_parameters(resource), {}, {})
    example = 'event: rows\r\nid: 1234\r\ndata: {"data": [], "block": {}}\r\n\r\n'
    operation["responses"]["200"] = {
        "description": "An event with the rows at first, and whenever they change",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": example}},
    }
    return operation


def graphql() -> Json:
    """The one path of GraphQL."""
    operation = _operation("GraphQL over the same resources", [_MIN_BLOCK], {}, {})
    body = {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "variables": {"type": ["object", "null"]},
            "operationName": {"type": ["string", "null"]},
        },
        "required": ["query"],
    }
    example = {"query": "{leases(limit: 2) {data {lease_id offer {kind}} next} block {number}}"}
    answer = {"type": "object", "properties": {"data": {}, "errors": {"type": "array"}}, "required": ["data"]}
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body, "example": example}}}
    operation["responses"]["200"]["content"] = {"application/json": {"schema": answer}}
    operation["responses"]["400"] = {
        "description": "The query cannot be read, costs too much, or failed as a whole",
        "content": {"application/json": {"schema": {"anyOf": [answer, _reference("error")]}}},
    }
    operation["responses"] |= {"408": _error("The body is too slow"), "413": _error("The body is too long")}
    return operation


def reputation() -> Json:
    """Everybody's."""
    row = {"provider": 1, "token": _EXAMPLES["address"], "points": "900", "credit": "1000", "debit": "100"}
    parameters = [_plain("provider", "number"), _plain("token", "address"), _LIMIT, _MIN_BLOCK]
    return _computed("Reputation, most points first; of one provider with its evidence", parameters, row)


def statistics() -> Json:
    """Prices and trade."""
    prices = {"min": "10000000", "median": "10000000", "mean": "10000000", "max": "10000000"}
    row = {"kind": 1, "model": "tiny", "token": _EXAMPLES["address"], "offers": 1, "price_in": prices}
    parameters = [_plain("kind", "number"), _plain("model", "text"), _plain("token", "address"), _LIMIT, _MIN_BLOCK]
    return _computed(
        "Prices per 10⁹ units and trade, by kind, model and token; of one model with history", parameters, row
    )


def _computed(summary: str, parameters: list[Json], row: Json) -> Json:
    data = {"type": "array", "items": {"type": "object", "required": list(row)}}
    found = _operation(summary, parameters, {"data": data}, {"data": [row], "block": _BLOCK})
    del found["responses"]["304"]
    return found


def _plain(name: str, kind: str) -> Json:
    return {"name": name, "in": "query", "schema": _SCHEMAS[kind], "example": _EXAMPLES[kind]}


def _page_parameters(resource: Resource) -> list[Json]:
    orders = list(resource.orders)
    return [
        *(_parameter(name, column) for name, column, _ in filter_columns(resource)),
        {"name": "sort", "in": "query", "schema": {"type": "string", "enum": orders, "default": orders[0]}},
        _LIMIT,
        _MIN_BLOCK,
    ]


def row(resource: Resource) -> Json:
    """One row by its key."""
    parameters = [_parameter(name, resource.columns[name], place="path") for name in resource.key]
    content = {"data": _reference(resource.singular)}
    example = {"data": _example(resource), "block": _BLOCK}
    found = _operation(f"One {resource.singular}", [*parameters, _MIN_BLOCK], content, example)
    found["responses"]["404"] = _error("There is no such row")
    return found


def status() -> Json:
    """How far the tables are."""
    return _operation("The newest indexed block", [_MIN_BLOCK], {}, {"block": _BLOCK})


def _operation(summary: str, parameters: list[Json], content: Json, example: Json) -> Json:
    schema = {
        "type": "object",
        "properties": {**content, "block": _reference("block")},
        "required": [*content, "block"],
        "additionalProperties": False,
    }
    answer = {
        "description": "As of the indexed block",
        "headers": _HEADERS,
        "content": {"application/json": {"schema": schema, "example": example}},
    }
    responses = {
        "200": answer,
        "304": {"description": "If-None-Match names this answer"},
        **{code: _error(text) for code, text in _ERRORS.items()},
    }
    return {"summary": summary, "parameters": parameters, "responses": responses}


def _parameter(name: str, column: Column, place: str = "query") -> Json:
    schema = dict(_SCHEMAS[column.kind])
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "example": _value(column)}


def _row_schema(resource: Resource) -> Json:
    properties = {name: _column_schema(column) for name, column in resource.columns.items()}
    return {
        "type": "object",
        "description": resource.summary,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _column_schema(column: Column) -> Json:
    schema = _SCHEMAS[column.kind]
    if column.kind == "bytes":
        # A log's data has no limit of ours.
        schema = {**schema, "pattern": "^0x([0-9a-f]{2})*$"}
    return {**schema, "type": [schema["type"], "null"]} if column.is_nullable else schema


def _block_schema() -> Json:
    properties = {
        "number": {"type": "integer"},
        "hash": _SCHEMAS["bytes"],
        "time": _NUMBER,
        "final": {"type": "integer"},
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _error_schema() -> Json:
    text = {"type": "string"}
    properties: Json = {"message": text, "type": text, "param": {"type": ["string", "null"]}, "code": text}
    inner = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}


def _error(description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _reference("error")}}}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _example(resource: Resource) -> Json:
    return {name: _value(column) for name, column in resource.columns.items()}


def _value(column: Column) -> Any:
    is_time = column.name.endswith(("_at", "_time", "_until", "expiry", "valid_from"))
    return _TIME if is_time and column.kind == "number" else _EXAMPLES[column.kind]
