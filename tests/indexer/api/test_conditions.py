"""ETags, the indexed block, waiting for a block, CORS, readiness, metrics."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from indexer.api.watcher import WAIT_S
from indexer.session import Session
from indexer.store.shapes import shape_of
from indexer.store.tables.documents import ProviderDocument
from tests.indexer.api.served import Served, serving
from tests.indexer.market import Market


def test_answer__names_its_block(served: Served) -> None:
    head = served.catch_up()
    answer = served.client.get("/v1/leases")
    assert answer.headers["x-indexed-block"] == str(head)
    block = served.market.node.rpc("eth_getBlockByNumber", [hex(head), False])
    assert answer.json()["block"]["hash"] == block["hash"]


def test_etag__same_block__is_304_and_a_new_block_is_not(served: Served) -> None:
    served.catch_up()
    first = served.client.get("/v1/token_balances")
    etag = first.headers["etag"]
    for named in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = served.client.get("/v1/token_balances", headers={"If-None-Match": named})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    other = served.client.get("/v1/token_balances?limit=3", headers={"If-None-Match": etag})
    assert other.status_code == 200
    served.market.transfer(1)
    served.catch_up()
    changed = served.client.get("/v1/token_balances", headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


def test_etag__replaced_block_of_the_same_number__changes(served: Served) -> None:
    snapshot = served.market.node.snapshot()
    served.market.transfer(1)
    head = served.catch_up()
    before = served.client.get("/v1/token_transfers")
    served.market.node.revert(snapshot)
    served.market.transfer(2)
    assert served.catch_up() == head
    after = served.client.get("/v1/token_transfers", headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert (before.json()["data"][0]["amount"], after.json()["data"][0]["amount"]) == ("1", "2")


def test_cache__row_without_a_new_block__is_seen_at_once(served: Served) -> None:
    shape = shape_of(ProviderDocument)
    row = (b"\x05" * 32, 1, b"\x06" * 20, 1, 2, None, "cpu", "eu", "{}", 3)
    assert len(row) == len(shape.columns)
    before = served.client.get("/v1/provider_documents", headers={"If-None-Match": "*"})
    assert (before.status_code, before.json()["data"]) == (200, [])
    assert "etag" not in before.headers
    with Session(served.config) as session:
        with session.database.transaction():
            session.database.insert(shape, [row])
        found = served.client.get("/v1/provider_documents").json()["data"]
        with session.database.transaction():
            session.database.delete(shape, [row[:1]])
    assert [each["digest"] for each in found] == ["0x" + "05" * 32]


def test_min_block__indexed_meanwhile__reads_own_write(served: Served) -> None:
    served.catch_up()
    served.market.transfer(4_321)
    head = served.market.node.block_number()
    writer = threading.Timer(0.5, served.catch_up)
    writer.start()
    started = time.monotonic()
    answer = served.client.get("/v1/token_transfers", params={"min_block": head})
    writer.join()
    assert time.monotonic() - started > 0.4
    assert int(answer.headers["x-indexed-block"]) >= head
    assert answer.json()["data"][0]["amount"] == "4321"


def test_min_block__never_indexed__is_409_after_the_wait(served: Served) -> None:
    started = time.monotonic()
    answer = served.client.get("/v1/leases?min_block=1000000")
    assert time.monotonic() - started >= WAIT_S
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "block_not_indexed"
    assert answer.headers["retry-after"] == str(int(WAIT_S))


def test_cors__any_origin__may_read_without_credentials(served: Served) -> None:
    headers = {"Origin": "https://dapp.example", "Access-Control-Request-Method": "GET"}
    preflight = served.client.options("/v1/leases", headers=headers)
    assert preflight.status_code == 204
    for answer in (preflight, served.client.get("/v1/leases", headers=headers), served.client.get("/v1/leases?x=1")):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert "x-indexed-block" in answer.headers["access-control-expose-headers"].lower()


def test_ready__tables_there_and_fresh__is_200(served: Served) -> None:
    served.market.transfer(1)
    served.catch_up()
    assert served.client.get("/health").status_code == 200
    answer = served.client.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_ready__nothing_indexed_then_too_old__says_why(
    traded: Market, kind: str, tmp_path: Path, postgres_url: str
) -> None:
    database = postgres_url if kind == "postgres" else "late.sqlite"
    with serving(tmp_path, traded, database, "max_lag_s = 0.001") as fresh:
        assert fresh.client.get("/health").status_code == 200
        assert fresh.client.get("/ready").status_code == 503
        answer = fresh.client.get("/v1/leases")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert str(tmp_path) not in answer.text
        fresh.catch_up()
        assert fresh.client.get("/v1/leases").json()["data"]
        # The market travelled days ahead; go where its time is past.
        indexed = fresh.client.get("/v1/status").json()["block"]["time"]
        expected = 503 if indexed < time.time() - 1 else 200
        assert fresh.client.get("/ready").status_code == expected


def test_metrics__requests_and_position__are_counted(served: Served) -> None:
    served.client.get("/v1/leases")
    text = served.client.get("/metrics").text
    head = served.client.get("/v1/status").json()["block"]["number"]
    assert f"clawmarket_api_indexed_block {float(head)}" in text
    assert 'clawmarket_api_requests_total{route="/v1/leases",status="200"}' in text
