"""Pages, filters, orders, cursors and errors of every resource."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from indexer.api.columns import ADDRESSES
from indexer.api.resources import RESOURCES, Resource
from indexer.session import Session
from indexer.store.shapes import shape_of
from indexer.store.tables import EVENTS, STATES, RawLog
from protocol.address import to_address
from tests.indexer.api.served import Served
from tests.support.anvil import dev_account

EMPTY = ("mints", "unknown_events", "deregistrations", "provider_documents", "offer_documents")
BY_RESOURCE = pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)


def rows(served: Served, path: str, **parameters: Any) -> list[dict[str, Any]]:
    """All of them, two a page."""
    found: list[dict[str, Any]] = []
    query = {"limit": 2, **parameters}
    while True:
        answer = served.client.get(f"/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        content = answer.json()
        found += content["data"]
        if content["next"] is None:
            return found
        assert len(content["data"]) == 2
        query["after"] = content["next"]


def stored(served: Served, resource: Resource) -> list[dict[str, Any]]:
    """The table's rows, shown as the API promises to."""
    shape = shape_of(resource.model)
    with Session(served.config) as session, session.database.transaction():
        return [
            {name: shown(name, kind, value) for name, kind, value in zip(shape.columns, shape.kinds, row, strict=True)}
            for row in session.database.scan(shape)
        ]


def shown(name: str, kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "binary":
        return to_address(value) if name in ADDRESSES else "0x" + value.hex()
    return str(value) if kind == "uint256" else value


def test_resources__every_table__is_served() -> None:
    assert {resource.model for resource in RESOURCES} >= {*STATES, *EVENTS, RawLog}
    assert len({name for resource in RESOURCES for name in (resource.name, resource.singular)}) == 2 * len(RESOURCES)


@BY_RESOURCE
def test_pages__every_order__hold_each_row_once(served: Served, resource: Resource) -> None:
    expected = stored(served, resource)
    assert expected or resource.name in EMPTY
    for order, columns in resource.orders.items():
        kinds = {name: resource.columns[name].kind for name in columns}
        found = rows(served, resource.name, sort=order)
        ordered = sorted(
            expected,
            key=lambda row, kinds=kinds: [  # type: ignore[misc]
                int(row[name]) if kind in ("number", "uint256") else str(row[name]).lower()
                for name, kind in kinds.items()
            ],
            reverse=order.startswith("-"),
        )
        assert found == ordered


@BY_RESOURCE
def test_filters__each_of_a_row_s_values__finds_the_rows_that_have_it(served: Served, resource: Resource) -> None:
    expected = stored(served, resource)
    for column in resource.filterable:
        values = {row[column.name] for row in expected if row[column.name] is not None}
        for value in sorted(values, key=str)[:3]:
            text = str(value).lower() if column.kind == "flag" else str(value)
            found = rows(served, resource.name, **{column.name: text})
            assert len(found) == sum(row[column.name] == value for row in expected)
            assert all(row[column.name] == value for row in found)
            if column.kind in ("number", "uint256"):
                numbers = [int(row[column.name]) for row in expected if row[column.name] is not None]
                least = rows(served, resource.name, **{f"{column.name}_min": text})
                assert len(least) == sum(number >= int(value) for number in numbers)
                most = rows(served, resource.name, **{f"{column.name}_max": text})
                assert len(most) == sum(number <= int(value) for number in numbers)


@BY_RESOURCE
def test_row__by_its_key__is_the_table_s(served: Served, resource: Resource) -> None:
    for expected in stored(served, resource)[:2]:
        key = "/".join(str(expected[name]) for name in resource.key)
        answer = served.client.get(f"/v1/{resource.name}/{key}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"] == expected


def test_addresses__are_the_columns_of_twenty_bytes(served: Served) -> None:
    for resource in RESOURCES:
        for column in resource.columns.values():
            values = {row[column.name] for row in stored(served, resource)} - {None}
            if column.kind == "address":
                assert all(len(value) == 42 for value in values), (resource.name, column.name)
            if column.kind == "bytes" and column.name != "data" and values:
                assert not all(len(value) == 42 for value in values), (resource.name, column.name)


def test_address__in_lower_case__is_found_and_shown_in_eip55(served: Served) -> None:
    owner = dev_account(2).address
    (first, *_) = rows(served, "leases", owner=owner.lower())
    assert first["owner"] == owner


def test_row__that_is_not_there__is_404(served: Served) -> None:
    answer = served.client.get("/v1/providers/999")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(list(parts))).decode().rstrip("=")


HOSTILE = [
    ("leases", {"after": "!"}, "after"),
    ("leases", {"after": "é"}, "after"),
    ("leases", {"after": "AAAA"}, "after"),
    ("leases", {"after": cursor("lease_id")}, "after"),
    ("leases", {"after": cursor("deposit", "1")}, "after"),
    ("leases", {"after": cursor("lease_id", 7)}, "after"),
    ("leases", {"after": cursor("lease_id", None)}, "after"),
    ("leases", {"after": cursor("lease_id", "0x' OR 1=1 --")}, "after"),
    ("leases", {"after": base64.b64encode(b"[" * 6000).decode()}, "after"),
    ("leases", {"after": cursor(*["lease_id", "0x00"] * 3)}, "after"),
    ("settlements", {"after": cursor("-block_number", str(2**63), "1")}, "after"),
    ("leases", {"sort": "signer"}, "sort"),
    ("leases", {"sort": "deposit; DROP TABLE lease"}, "sort"),
    ("leases", {"sort": "deposit DESC"}, "sort"),
    ("leases", {"limit": "0"}, "limit"),
    ("leases", {"limit": "201"}, "limit"),
    ("leases", {"limit": "1 OFFSET 5"}, "limit"),
    ("leases", {"limit": "²"}, "limit"),
    ("leases", {"owner": "0x1"}, "owner"),
    ("leases", {"owner": "0x70997970c51812dc3A010C7d01b50e0d17dc79C8"}, "owner"),
    ("leases", {"owner": "' OR '1'='1"}, "owner"),
    ("leases", {"provider": "1 OR 1=1"}, "provider"),
    ("leases", {"provider": "-1"}, "provider"),
    ("leases", {"provider": "1e3"}, "provider"),
    ("leases", {"provider": str(2**63)}, "provider"),
    ("leases", {"deposit": str(2**256)}, "deposit"),
    ("leases", {"deposit_min": "٣"}, "deposit_min"),
    ("leases", {"is_closing": "1"}, "is_closing"),
    ("leases", {"owner) OR (1=1": "x"}, "owner) OR (1=1"),
    ("leases", {"data": "0x"}, "data"),
    ("leases", {"lease_id_min": "0x00"}, "lease_id_min"),
    ("roles", {"contract": "a\x00b"}, "contract"),
    ("roles", {"contract": "x" * 101}, "contract"),
    ("logs", {"topic0": "0x123"}, "topic0"),
    ("leases", {"min_block": "-1"}, "min_block"),
    ("leases", {"min_block": "9" * 30}, "min_block"),
]


@pytest.mark.parametrize(("path", "parameters", "param"), HOSTILE)
def test_parameter__hostile_or_wrong__is_named_in_a_400(
    served: Served, path: str, parameters: dict[str, str], param: str
) -> None:
    answer = served.client.get(f"/v1/{path}", params=parameters)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_parameter__given_twice__is_refused(served: Served) -> None:
    answer = served.client.get("/v1/leases?provider=1&provider=2")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "provider")


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE role; --", "owner' OR '1'='1", '" OR 1=1 --', "%' --", "$1", "?", "%s", "\\'; SELECT 1"]
)
def test_text__with_sql__is_only_a_value(served: Served, text: str) -> None:
    before = rows(served, "roles")
    assert rows(served, "roles", contract=text) == []
    assert served.client.get(f"/v1/roles/{quote(text)}/{quote(text)}").status_code == 404
    assert rows(served, "roles") == before != []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/", 404), ("POST", "/v1/leases", 405), ("DELETE", "/v1/leases", 405)],
)
def test_route__that_is_not_there__is_an_error_of_the_same_shape(
    served: Served, method: str, path: str, status: int
) -> None:
    answer = served.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
