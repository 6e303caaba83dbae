"""GraphQL says what REST says, within its limits, whatever it is asked."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from indexer.api.graph.limits import MAX_COST, MAX_DEPTH, MAX_FIELDS, MAX_TOKENS
from indexer.api.graph.route import BODY_S, MAX_BODY
from indexer.api.resources import BY_NAME, RESOURCES, Resource
from tests.indexer.api.served import ANSWER_S, Served


def ask(served: Served, query: str, **variables: Any) -> dict[str, Any]:
    answer = served.client.post("/graphql", json={"query": query, "variables": variables})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    assert "errors" not in content, content
    found: dict[str, Any] = content["data"]
    return found


def refused(served: Served, query: str, **variables: Any) -> dict[str, Any]:
    """The one error."""
    answer = served.client.post("/graphql", json={"query": query, "variables": variables})
    content = answer.json()
    assert answer.status_code == 400, content
    if "error" in content:
        found: dict[str, Any] = content["error"]
        return found
    (error, *_) = content["errors"]
    return {"message": error["message"], **error["extensions"]}


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_page_and_row__are_those_of_rest(served: Served, resource: Resource) -> None:
    fields = " ".join(resource.columns)
    for order in resource.orders:
        rest = served.client.get(f"/v1/{resource.name}", params={"limit": 3, "sort": order}).json()
        query = f'{{page: {resource.name}(limit: 3, sort: "{order}") {{data {{{fields}}} next}} block {{hash}}}}'
        found = ask(served, query)
        assert found["page"] == {"data": rest["data"], "next": rest["next"]}
        assert found["block"]["hash"] == rest["block"]["hash"]
        if rest["next"] is not None:
            behind = served.client.get(
                f"/v1/{resource.name}", params={"limit": 3, "sort": order, "after": rest["next"]}
            ).json()
            arguments = f'limit: 3, sort: "{order}", after: $after'
            query = f"query($after: String) {{page: {resource.name}({arguments}) {{data {{{fields}}}}}}}"
            assert ask(served, query, after=rest["next"])["page"]["data"] == behind["data"]
    if rest["data"]:
        first = rest["data"][0]
        key = ", ".join(f"{name}: {json.dumps(first[name])}" for name in resource.key)
        assert ask(served, f"{{row: {resource.singular}({key}) {{{fields}}}}}")["row"] == first


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_links__lead_to_rows_that_match(served: Served, resource: Resource) -> None:
    for name, link in resource.links.items():
        theirs, ours = " ".join(link.on), " ".join(link.on.values())
        is_single = link.is_single(BY_NAME[link.to])
        inner = theirs if is_single else f"data {{{theirs}}}"
        page = ask(served, f"{{{resource.name}(limit: 5) {{data {{{ours} {name} {{{inner}}}}}}}}}")[resource.name]
        linked = [(row, [row[name]] if is_single else row[name]["data"]) for row in page["data"]]
        pairs = [(row, other) for row, others in linked for other in others if other is not None]
        assert pairs or not page["data"] or name == "document"
        for row, other in pairs:
            assert {column: other[column] for column in link.on} == {
                column: row[own] for column, own in link.on.items()
            }


def test_filters__typed__are_those_of_rest(served: Served) -> None:
    rest = served.client.get("/v1/leases?provider=1&is_closing=true&deposit_min=5").json()["data"]
    found = ask(served, '{leases(provider: 1, is_closing: true, deposit_min: "5") {data {lease_id}}}')["leases"]["data"]
    assert [row["lease_id"] for row in rest] == [row["lease_id"] for row in found] != []
    assert ask(served, "{provider(provider: 999) {owner}}") == {"provider": None}


def test_introspection__by_tools__works(served: Served) -> None:
    from graphql import build_client_schema, get_introspection_query

    schema = build_client_schema(ask(served, get_introspection_query()))  # type: ignore[arg-type]
    assert schema.get_type("Lease") is not None


def aliases(count: int, inner: str) -> str:
    return "{" + " ".join(f"a{number}: {inner}" for number in range(count)) + "}"


def deep(levels: int) -> str:
    """Offer to provider to offers and back."""
    query = "offer_id"
    for _ in range(levels):
        query = f"offered_by {{offers(limit: 1) {{data {{{query}}}}}}}"
    return f"{{offers(limit: 1) {{data {{{query}}}}}}}"


LAUGHS = (
    "{leases(limit: 1) {data {...f9}}}"
    + "".join(f" fragment f{number} on Lease {{...f{number - 1} ...f{number - 1}}}" for number in range(1, 10))
    + " fragment f0 on Lease {lease_id owner}"
)
HOLLOW_LAUGHS = "{leases(limit: 1) {data {...f60}}}" + "".join(
    f" fragment f{number} on Lease {{...f{number - 1} ...f{number - 1}}}" for number in range(1, 61)
)
"""Without a single field at the end, and without an end: nobody has f0."""
TOO_MUCH = {
    "depth": (deep(8), "query_too_deep"),
    "brackets": ("{a" * 400 + "}" * 400, "query_too_deep"),
    "lists of lists": ("{leases(owner: " + "[" * 300 + "]" * 300 + ") {next}}", "query_too_deep"),
    "cost by limit": ("{leases(limit: 200) {data {settlements(limit: 200) {data {paid}}}}}", "query_too_costly"),
    "cost by default limit": ("{leases {data {settlements {data {logs {next}}}}}}", "query_too_costly"),
    "cost by aliases": (aliases(20, "leases(limit: 200) {data {lease_id owner}}"), "query_too_costly"),
    "cost by variable": (
        "query($n: Int = 200) {leases(limit: $n) {data {settlements(limit: $n) {data {paid}}}}}",
        "query_too_costly",
    ),
    "cost by fragment": (
        "{leases(limit: 200) {...p}} fragment p on LeasePage {data {settlements(limit: 200) {data {paid}}}}",
        "query_too_costly",
    ),
    "cost by inline fragment": (
        "{... on Query {leases(limit: 200) {... {data {... on Lease {settlements(limit: 200) {next}}}}}}}",
        "query_too_costly",
    ),
    "cost of another operation": (
        "query a {block {number}} query b {leases(limit: 200) {data {settlements(limit: 200) {next}}}}",
        "query_too_costly",
    ),
    "fragments of fragments": (LAUGHS, "query_too_long"),
    "fragments of nothing": (HOLLOW_LAUGHS, "query_too_long"),
    "fragment of itself": ("{leases {...f}} fragment f on LeasePage {next ...f}", "bad_query"),
    "same fields": ("{block {" + "number " * (MAX_FIELDS + 1) + "}}", "query_too_long"),
    "tokens": ("{block {number}} #\n" + "query q {block {number}}" * MAX_TOKENS, "query_too_long"),
    "directives": ("{block {number " + "@skip(if: false) " * MAX_TOKENS + "}}", "query_too_long"),
    "introspection": ("{__schema {types {fields {type {fields {type {fields {name}}}}}}}}", "query_too_costly"),
    "introspection by aliases": (
        "{__schema {a: types {fields {name}} b: types {fields {name}}}}",
        "query_too_costly",
    ),
}


@pytest.mark.parametrize(("query", "code"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_query__that_costs_too_much__is_refused_before_it_runs(served: Served, query: str, code: str) -> None:
    started = time.monotonic()
    assert refused(served, query, n=200)["code"] == code
    assert served.client.get("/v1/leases").status_code == 200
    assert time.monotonic() - started < ANSWER_S


def test_query__just_within_the_limits__runs(served: Served) -> None:
    assert MAX_DEPTH == 10
    assert ask(served, deep(2))["offers"]["data"]
    ask(served, "{leases(limit: 200) {data {" + "lease_id " * 23 + "}}}")
    assert MAX_COST == 5_000


WRONG = [
    "",
    "{",
    "}",
    "nonsense",
    "{nothing}",
    "{leases {data {nothing}}}",
    "{leases}",
    "mutation {leases {next}}",
    "subscription {leases {next}}",
    "{leases(nothing: 1) {next}}",
    "{leases(provider: -1) {next}}",
    "{leases(provider: 99999999999999999999999) {next}}",
    "{leases(provider: true) {next}}",
    "{leases(limit: 0) {next}}",
    "{leases(limit: 201) {next}}",
    "{leases(limit: 99999999999999999) {next}}",
    '{leases(after: "!!!") {next}}',
    '{leases(sort: "deposit; DROP TABLE lease") {next}}',
    '{leases(owner: "\' OR 1=1 --") {next}}',
    '{leases(owner: "\\ud800") {next}}',
    '{leases(owner: "\\u0000") {next}}',
    '{roles(contract: "a\\u0000b") {next}}',
    "{leases(limit: $n) {next}}",
    "query($n: Int!) {leases(limit: $n) {next}}",
    "query a {block {number}} query b {block {number}}",
    "fragment f on Lease {owner}",
    "{leases {...nothing}}",
    '{provider(provider: "1") {owner}}',
    "{offer(provider: 1) {kind}}",
]


@pytest.mark.parametrize("query", WRONG)
def test_query__wrong_or_hostile__is_a_400(served: Served, query: str) -> None:
    answer = served.client.post("/graphql", json={"query": query})
    assert answer.status_code == 400, answer.text
    assert "File" not in answer.text
    assert "SELECT" not in answer.text


@pytest.mark.parametrize("text", ["'; DROP TABLE role; --", "x' OR '1'='1", '" OR 1=1 --', "%s", "?", "$1"])
def test_text__with_sql__is_only_a_value(served: Served, text: str) -> None:
    before = ask(served, "{roles {data {contract}}}")
    for query in (
        "query($t: String) {roles(contract: $t) {data {contract}}}",
        f"{{roles(contract: {json.dumps(text)}) {{data {{contract}}}}}}",
    ):
        assert ask(served, query, t=text)["roles"]["data"] == []
    assert ask(served, "{roles {data {contract}}}") == before
    assert before["roles"]["data"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"[{}]", b"null", b'{"query": 1}', b'{"query": "{block {number}}", "variables": []}', b"\xff",
     b'{"query": "\\ud800"}', b'{"query": "{block {number}}", "operationName": 1}', b"[" * 60_000],
)  # fmt: skip
def test_body__that_is_no_request__is_a_400(served: Served, body: bytes) -> None:
    answer = served.client.post("/graphql", content=body)
    assert answer.status_code == 400, answer.text


def test_body__too_long__is_413(served: Served) -> None:
    answer = served.client.post("/graphql", content=b" " * (MAX_BODY + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_long")


def test_body__too_slow__is_408(served: Served) -> None:
    url = served.client.base_url
    with socket.create_connection((url.host, url.port), timeout=ANSWER_S) as connection:
        connection.sendall(b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        started = time.monotonic()
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - started >= BODY_S * 0.9


def test_min_block__and_the_indexed_block__are_as_in_rest(served: Served) -> None:
    served.market.transfer(1)
    head = served.catch_up()
    answer = served.client.post(f"/graphql?min_block={head}", json={"query": "{block {number}}"})
    assert answer.json()["data"]["block"]["number"] == head
    assert answer.headers["x-indexed-block"] == str(head)
    assert served.client.post("/graphql?x=1", json={"query": "{block {number}}"}).status_code == 400
