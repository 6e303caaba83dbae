"""Reputation and statistics over HTTP, on both databases, against the tables and the contracts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from indexer.reputation.evidence import STAKER_SHARE_KEY, known, questions
from indexer.session import Session
from indexer.store import cursor
from indexer.store.shapes import shape_of
from indexer.store.tables.daily import DAY_S
from indexer.store.tables.documents import OfferDocument
from tests.indexer.api.conftest import opened_market
from tests.indexer.api.served import Served, serving
from tests.indexer.market import TERMS, Market

PRICE_IN, PRICE_OUT, SCALE = 10, 30, 1_000


def get(served: Served, path: str, **parameters: str | int) -> httpx.Response:
    """Computed figures are kept for a while: `min_block` asks for those of the newest block."""
    return served.client.get(path, params={"min_block": served.catch_up(), **parameters})


def data(served: Served, path: str, **parameters: str | int) -> list[dict[str, Any]]:
    response = get(served, path, **parameters)
    assert response.status_code == 200, response.text
    return list(response.json()["data"])


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def priced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A market with one open offer, whose terms are known."""
    folder = tmp_path_factory.mktemp(f"priced_{request.param}")
    database = request.getfixturevalue("postgres_url") if request.param == "postgres" else "indexer.sqlite"
    with opened_market(folder) as market, serving(folder, market, database) as served:
        row = {
            "terms_digest": TERMS,
            "kind": 1,
            "token": bytes.fromhex(usdc(market)[2:]),
            "model": "tiny",
            "fingerprint": None,
            "price_in": PRICE_IN,
            "price_out": PRICE_OUT,
            "price_cached": 0,
            **dict.fromkeys(("sla_ttft_ms", "sla_milli_tokens_per_s", "sla_credit_bps", "period", "fetched_at"), 0),
            "unit_scale": SCALE,
            "tier": "shared",
            "region": "ZZ",
            "document": "{}",
        }
        served.catch_up()
        with Session(served.config) as session, session.database.transaction():
            session.database.upsert(shape_of(OfferDocument), [row])
        market.transfer(1)
        yield served


def usdc(market: Market) -> str:
    return market.address("TestUSDC")


def test_reputation__is_that_of_the_tables(served: Served) -> None:
    (row,) = data(served, "/v1/reputation")
    with Session(served.config) as session:
        today = cursor.load(session.database, session.deployment).block_time // DAY_S
        rows = [session.database.execute(each.statement, each.values) for each in questions(today)]
    (found,) = known(*rows).scores(today).values()
    assert row == {
        "provider": 1,
        "token": usdc(served.market),
        **{name: str(getattr(found, name)) for name in ("points", "credit", "debit")},
        "slashed_bps": found.slashed,
    }
    assert int(row["credit"]) > 0
    assert int(row["debit"]) > 0


def test_reputation_of_one__shows_what_it_comes_from(served: Served) -> None:
    (row,) = data(served, "/v1/reputation", provider=1, token=usdc(served.market).lower())
    volume = sum(int(settled["fee"]) for settled in data(served, "/v1/settlements", limit=200))
    assert sum(int(day["fees"]) for day in row["evidence"]["days"]) == volume
    share = served.market.client.get(served.market.client.reads.view("Params", "get", STAKER_SHARE_KEY))
    assert {day["staker_share_bps"] for day in row["evidence"]["days"]} == {share}
    assert len(row["evidence"]["anchors"]) == len(row["evidence"]["slashes"]) == 1
    assert data(served, "/v1/reputation", provider=2) == []
    assert data(served, "/v1/reputation", token="0x" + "00" * 19 + "01") == []


def test_statistics__prices_and_trade_are_the_markets(priced: Served) -> None:
    market = priced.market
    before = data(priced, "/v1/statistics", kind=1, model="tiny")[0]
    lease = market.open_lease()
    market.settle(lease, 250_000)
    (row,) = data(priced, "/v1/statistics", kind=1, token=usdc(market))
    prices = {"price_in": PRICE_IN * 10**9 // SCALE, "price_out": PRICE_OUT * 10**9 // SCALE}
    for name, price in prices.items():
        assert row[name] == dict.fromkeys(("min", "median", "mean", "max"), str(price))
    assert (row["model"], row["offers"], row["providers"]) == ("tiny", 1, 1)
    assert row["open_leases"] == before["open_leases"] + 1
    for span in ("last_24h", "last_30d"):
        assert int(row[span]["volume"]) == int(before[span]["volume"]) + 250_000
        assert row[span]["settlements"] == before[span]["settlements"] + 1
    settled = sum(int(each["settled"]) for each in data(priced, "/v1/leases", limit=200))
    assert int(row["last_30d"]["volume"]) == settled
    assert "history_24h" not in row


def test_statistics_of_a_model__have_their_history(priced: Served) -> None:
    (row,) = data(priced, "/v1/statistics", model="tiny")
    assert [len(row[name]) for name in ("history_24h", "history_30d", "volume_by_day")] == [24, 30, 30]
    newest, oldest = row["history_30d"][-1], row["history_30d"][0]
    assert (newest["time"], newest["price_out"]) == (row["time"], row["price_out"])
    assert (oldest["offers"], oldest["price_out"]) == (0, None)
    assert sum(int(day["volume"]) for day in row["volume_by_day"]) == int(row["last_30d"]["volume"])
    assert data(priced, "/v1/statistics", model="nobody's") == []


@pytest.mark.parametrize("path", ["/v1/reputation", "/v1/statistics"])
@pytest.mark.parametrize(
    ("name", "value"), [("token", "0x12"), ("limit", "0"), ("limit", "201"), ("limit", "-1"), ("order", "points")]
)
def test_bad_parameters__are_named(served: Served, path: str, name: str, value: str) -> None:
    response = get(served, path, **{name: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name


@pytest.mark.parametrize("text", ["1' OR 1=1 --", "1e9", "٣", "9" * 30, ""])
def test_numbers__are_numbers(served: Served, text: str) -> None:
    assert get(served, "/v1/reputation", provider=text).status_code == 400
    assert get(served, "/v1/statistics", kind=text).status_code == 400


def test_kept_for_a_while__but_not_for_who_asks_for_a_newer_block(priced: Served) -> None:
    first = priced.client.get("/v1/statistics").json()["block"]["number"]
    priced.market.transfer(1)
    head = priced.catch_up()
    kept = priced.client.get("/v1/statistics")
    assert kept.json()["block"]["number"] == int(kept.headers["X-Indexed-Block"]) == first < head
    assert priced.client.get("/v1/statistics", params={"min_block": head}).json()["block"]["number"] >= head
