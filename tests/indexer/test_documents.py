"""Documents from strangers: only what the registry names is kept, and nobody inside the own network is asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from indexer.config import IndexerConfig
from indexer.documents import collector, fetching
from indexer.documents.collector import Collector
from indexer.documents.fetching import Fetcher
from indexer.exceptions import NotFetched
from indexer.session import Session
from indexer.store.database import Database
from protocol.documents import document_digest, sign_envelope
from protocol.offer_text import terms_to_json
from protocol.signing import Signer
from protocol.typed_data import Terms, hash_struct
from tests.indexer.conftest import NewConfig
from tests.indexer.market import NODES, Market
from tests.support.anvil import dev_account
from tests.support.hostile_server import NONSENSE, HostileServer, Reply, hostile_server
from tests.support.provider_stack import make_offer

STRANGER = Signer(b"\x71" * 32)
OFFER = "/v1/offers/1/2"


@dataclass
class Shop:
    """The market's provider with a server; its offer has terms that exist."""

    market: Market
    server: HostileServer
    terms: Terms
    terms_document: dict[str, Any]
    reports: list[str] = field(default_factory=list)

    def metadata(self, **changes: Any) -> dict[str, Any]:
        return {
            "schema": "clawmarket/provider/1",
            "chain_id": self.market.domain.chain_id,
            "escrow": self.market.domain.escrow,
            "owner": dev_account(1).address,
            "node_key": NODES[0].address,
            "issued_at": 1,
            "expires_at": 2**40,
            "endpoints": [{"url": self.server.url}],
            "models": [
                {"name": "tiny", "fingerprint": "0x" + "00" * 32, "offer_id": 1, "sandbox": "gvisor-systrap"},
            ],
            "tier": "shared",
            "region": "ZZ",
            "policies": {"retention": {"input_s": 0, "output_s": 0, "log_s": 0}, "refuses": []},
            **changes,
        }

    def envelope(self, document: dict[str, Any], signer: Signer = NODES[0]) -> Reply:
        return Reply(json.dumps(sign_envelope(self.market.domain, document, signer), indent=1).encode())

    def publish(self, **changes: Any) -> None:
        document = self.metadata(**changes)
        self.market.send(1, "Registry", "set_metadata", 1, document_digest(document))
        self.server.replies["/v1/provider"] = self.envelope(document)

    def offer(self, **changes: Any) -> Reply:
        terms = {**terms_to_json(self.terms), **changes}
        return Reply(json.dumps({"terms": terms, "document": self.terms_document}).encode())


@pytest.fixture
def shop(market: Market) -> Iterator[Shop]:
    market.open()
    made = make_offer()
    terms = Terms.from_dict({**made.terms.as_dict(), "token": market.address("TestUSDC")})
    row = (1, terms.token, hash_struct(terms), 1_000, 30 * 86_400, 3_600, 86_400, 10)
    market.send(1, "Registry", "update_offer", 1, 1, row)
    with hostile_server() as server:
        found = Shop(market, server, terms, made.document)
        found.publish()
        server.replies[OFFER] = found.offer()
        yield found


def index(market: Market, config: IndexerConfig) -> None:
    market.node.mine(10)
    with Session(config) as session:
        session.follower(lambda _: None).backfill()


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(None) as found:
        yield found


@pytest.fixture
def database(shop: Shop, new_config: NewConfig) -> Iterator[Database]:
    config = new_config()
    index(shop.market, config)
    with Session(config) as session:
        yield session.database


def of(shop: Shop, database: Database, fetcher: Fetcher, *addresses: str) -> Collector:
    return Collector(database, shop.market.domain, addresses or [shop.server.url], fetcher, shop.reports.append)


async def test_honest__both_are_kept_and_not_asked_for_again(shop: Shop, database: Database, fetcher: Fetcher) -> None:
    asking = of(shop, database, fetcher)
    assert await asking.round() == 2
    assert shop.server.seen == ["/v1/provider", OFFER]
    ((provider, envelope),) = database.execute("SELECT provider, envelope FROM provider_document")
    assert (provider, json.loads(envelope)["document"]) == (1, shop.metadata())
    ((model, out, document),) = database.execute("SELECT model, price_out, document FROM offer_document")
    assert (model, int(out), json.loads(document)) == ("tiny-random", 30, shop.terms_document)
    assert await asking.round() == 0
    assert len(shop.server.seen) == 2
    assert shop.reports == []


async def test_new_metadata__is_asked_for_where_the_old_one_says(
    shop: Shop, new_config: NewConfig, fetcher: Fetcher
) -> None:
    config = new_config()
    index(shop.market, config)
    with Session(config) as session:
        assert await of(shop, session.database, fetcher).round() == 2
    shop.publish(name="new")
    index(shop.market, config)
    with Session(config) as session:
        assert await of(shop, session.database, fetcher, "http://127.0.0.1:1").round() == 1
        names = session.database.execute("SELECT name FROM provider_document ORDER BY name")
        assert ("new",) in names


LIES: dict[str, Callable[[Shop], Reply]] = {
    **NONSENSE,
    "elsewhere": lambda shop: Reply(status=302, headers={"Location": shop.server.url + "/inside"}),
    "silent": lambda _: Reply(is_silent=True),
}
METADATA_LIES: dict[str, Callable[[Shop], Reply]] = {
    **LIES,
    "by a stranger": lambda shop: shop.envelope(shop.metadata(node_key=STRANGER.address), STRANGER),
    "another document": lambda shop: shop.envelope(shop.metadata(name="forged")),
    "unsigned": lambda shop: Reply(
        json.dumps(
            {"schema": "clawmarket/envelope/1", "document": shop.metadata(), "signature": "0x" + "11" * 65}
        ).encode()
    ),
}
OFFER_LIES: dict[str, Callable[[Shop], Reply]] = {
    **LIES,
    "other price": lambda shop: shop.offer(priceOut=1),
    "no terms": lambda shop: Reply(json.dumps({"document": shop.terms_document}).encode()),
    "other document": lambda shop: Reply(
        json.dumps({"terms": terms_to_json(shop.terms), "document": {**shop.terms_document, "region": "DE"}}).encode()
    ),
}


@pytest.mark.parametrize(
    ("path", "lie"), [("/v1/provider", lie) for lie in METADATA_LIES] + [(OFFER, lie) for lie in OFFER_LIES]
)
@pytest.mark.parametrize("new_config", ["sqlite"], indirect=True)
async def test_lie__nothing_is_kept_until_it_is_honest(
    shop: Shop, database: Database, fetcher: Fetcher, path: str, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "FIRST_REST_S", 0.0)
    honest = shop.server.replies[path]
    shop.server.replies[path] = (METADATA_LIES if path == "/v1/provider" else OFFER_LIES)[lie](shop)
    asking = of(shop, database, fetcher)
    with monkeypatch.context() as patched:
        if lie == "silent":
            patched.setattr(fetching, "TIMEOUT_S", 1.0)
            async with Fetcher(None) as hasty:
                assert await of(shop, database, hasty).round() == (0 if path == "/v1/provider" else 1)
        else:
            assert await asking.round() == (0 if path == "/v1/provider" else 1)
    assert shop.server.seen.count(path) == 1
    assert "/inside" not in shop.server.seen
    assert shop.server.sent < 100_000_000
    assert len(shop.reports) == 1
    shop.server.replies[path] = honest
    assert await asking.round() == (2 if path == "/v1/provider" else 1)


@pytest.mark.parametrize("new_config", ["sqlite"], indirect=True)
async def test_who_has_nothing__rests(shop: Shop, database: Database, fetcher: Fetcher) -> None:
    shop.server.replies.clear()
    asking = of(shop, database, fetcher)
    for _ in range(3):
        assert await asking.round() == 0
    assert shop.server.seen == ["/v1/provider"]


INSIDE = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "127.1", "[::ffff:127.0.0.1]"]


UNREACHABLE = {"[::1]", "2130706433", "127.1"}
"""Where the server does not listen, and what the client takes for no address."""


@pytest.mark.parametrize("host", INSIDE)
async def test_own_network__is_not_asked_unless_it_is_configured(host: str) -> None:
    with hostile_server() as server:
        server.replies["/"] = Reply(b"secret")
        url = f"http://{host}:{server.url.rpartition(':')[2]}/"
        async with Fetcher(frozenset()) as public:
            with pytest.raises(NotFetched):
                await public.get(url, 100)
        assert server.seen == []
        async with Fetcher(frozenset({host.strip("[]")})) as trusting:
            if host in UNREACHABLE:
                return
            assert await trusting.get(url, 100) == b"secret"
