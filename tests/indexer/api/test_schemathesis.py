"""Whatever OpenAPI or GraphQL's types allow, and much they do not, is answered as documented: never by a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.indexer.api.served import ANSWER_S, Served

CASES_PER_ROUTE = 12
GRAPHQL_CASES = 300
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def settings_of(cases: int) -> settings:
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )


def test_openapi__is_valid_and_has_examples(served: Served) -> None:
    document = served.client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) > 100
    schemathesis.openapi.from_dict(document).validate()
    assert all("responses" in operation and operation["summary"] for operation in operations)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"])
def test_every_route__any_request__is_answered_as_documented(served: Served, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(served.client.get("/openapi.json").json())
    tried = 0
    statuses: set[int] = set()
    for found in schema.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]
        if "/live/" in operation.path:
            continue

        @settings_of(CASES_PER_ROUTE)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            nonlocal tried
            # A block far ahead is waited for: test_conditions.py does.
            if str((case.query or {}).get("min_block", "")).isdigit():
                del case.query["min_block"]
            response = case.call(base_url=served.url, timeout=ANSWER_S)
            statuses.add(response.status_code)
            case.validate_response(response, checks=CHECKS)
            tried += 1

        ask()
    assert tried > 500
    assert 200 in statuses
    assert 400 in statuses or mode is GenerationMode.POSITIVE


def test_graphql__any_query__is_no_server_error(served: Served) -> None:
    schema = schemathesis.graphql.from_url(f"{served.url}/graphql")
    statuses: set[int] = set()

    @settings_of(GRAPHQL_CASES)
    @given(
        case=st.one_of([found.ok().as_strategy() for found in schema.get_all_operations()])  # type: ignore[union-attr]
    )
    def ask(case: Any) -> None:
        statuses.add(case.call(timeout=ANSWER_S).status_code)

    ask()
    assert statuses == {200, 400}
