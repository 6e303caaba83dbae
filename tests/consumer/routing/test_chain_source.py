"""Offers from a real chain and a server that lies: nothing counts that the registry does not confirm."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from consumer.routing import fetching
from consumer.routing.catalogue import Candidate, Catalogue
from consumer.routing.chain_source import ChainOffers
from consumer.routing.indexed_addresses import IndexedAddresses
from consumer.routing.limits import Limits
from consumer.routing.settings import LimitSettings
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ChainError
from protocol.documents import document_digest, sign_envelope
from protocol.offer_text import terms_to_json
from protocol.signing import Signer
from protocol.typed_data import Document, Terms
from provider.owner import OfferLimits, Owner
from tests.support.hostile_server import NONSENSE, HostileServer, Reply, hostile_server
from tests.support.live_market import ETHER, LiveMarket, live_market, signer_of
from tests.support.promised import PROMISED
from tests.support.provider_stack import make_offer

STAKE = 10_000 * ETHER
NODE, PLAIN_NODE, STRANGER = (Signer(bytes([number]) * 32) for number in (0x31, 0x32, 0x33))
NOBODY = IndexedAddresses([], may_be_private=True)
_numbers = itertools.count()


@dataclass
class Shop:
    """A registered provider, and the server at its address. Accounts: 1 with metadata, 3 without."""

    market: LiveMarket
    server: HostileServer
    account: int
    provider: int
    offer_id: int
    terms: Terms
    document: dict[str, Any]

    @property
    def offer_path(self) -> str:
        version = self.market.client.offer(self.provider, self.offer_id).version
        return f"/v1/offers/{self.offer_id}/{version}"

    def owner(self, act: Callable[[Owner], Any]) -> Any:
        with self.market.sender(f"shop-{self.account}", self.account) as sender:
            return act(Owner(self.market.client, sender, self.market.domain))

    def reprice(self, terms: Terms) -> None:
        """A new version of the offer, on chain only."""
        key = f"terms-{next(_numbers)}"
        self.owner(lambda owner: owner.update_offer(key, self.provider, self.offer_id, terms, OfferLimits()))

    def metadata(self, **changes: Any) -> dict[str, Any]:
        now = self.market.client.head().timestamp
        return {
            "schema": "clawmarket/provider/1",
            "chain_id": self.market.domain.chain_id,
            "escrow": self.market.domain.escrow,
            "owner": signer_of(self.account).address,
            "node_key": NODE.address,
            "issued_at": now,
            "expires_at": now + 86_400,
            "endpoints": [{"url": self.server.url}],
            "models": [
                {
                    "name": "tiny-random",
                    "fingerprint": "0x" + "00" * 32,
                    "offer_id": self.offer_id,
                    "sandbox": PROMISED.value,
                }
            ],
            "tier": "shared",
            "region": "ZZ",
            "policies": {"retention": {"input_s": 0, "output_s": 0, "log_s": 0}, "refuses": []},
            **changes,
        }

    def envelope(self, document: dict[str, Any], signer: Signer = NODE) -> Reply:
        return Reply(json.dumps(sign_envelope(self.market.domain, document, signer)).encode())

    def publish(self, **changes: Any) -> None:
        """On chain and on the server."""
        document = self.metadata(**changes)
        self.owner(lambda owner: owner.set_metadata(self.provider, document_digest(document)))
        self.server.replies["/v1/provider"] = self.envelope(document)

    def offer(self, **changes: Any) -> Reply:
        terms = replace(self.terms, **changes)
        return Reply(json.dumps({"terms": terms_to_json(terms), "document": self.document}).encode())

    def source(self) -> ChainOffers:
        return ChainOffers(self.market.client, self.market.domain, [self.server.url + "/"], NOBODY)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        running.call(0, "routing-claw", "ClawToken", "transfer", signer_of(3).address, STAKE)
        yield running


@pytest.fixture(scope="module")
def registered(market: LiveMarket) -> dict[int, tuple[int, int, Terms, dict[str, Any]]]:
    found = {}
    made = make_offer()
    terms = replace(made.terms, token=market.token)
    for account, node in ((1, NODE), (3, PLAIN_NODE)):
        with market.sender(f"shop-{account}", account) as sender:
            owner = Owner(market.client, sender, market.domain)
            owner.stake(STAKE)
            provider = owner.register(node)
            offer_id, _ = owner.create_offer(provider, terms, OfferLimits())
        found[account] = (provider, offer_id, terms, made.document)
    return found


def opened(market: LiveMarket, registered: Any, account: int) -> Iterator[Shop]:
    with hostile_server() as server:
        shop = Shop(market, server, account, *registered[account])
        server.replies[shop.offer_path] = shop.offer()
        yield shop


@pytest.fixture
def shop(market: LiveMarket, registered: Any) -> Iterator[Shop]:
    for found in opened(market, registered, 1):
        found.publish()
        yield found


@pytest.fixture
def plain(market: LiveMarket, registered: Any) -> Iterator[Shop]:
    for found in opened(market, registered, 3):
        found.server.replies["/healthz"] = Reply(json.dumps({"ready": True, "provider": found.provider}).encode())
        yield found


async def listed(source: ChainOffers) -> list[Candidate]:
    return await source.candidates()


async def test_honest__as_the_chain_confirms__and_not_fetched_again(shop: Shop) -> None:
    source = shop.source()
    (found,) = await listed(source)
    assert (found.provider, found.model, found.endpoint.url) == (shop.provider, "tiny-random", shop.server.url)
    assert (found.owner, found.stake) == (signer_of(1).address, STAKE)
    assert found.offer.terms == shop.terms
    assert source.is_complete
    assert shop.server.seen == ["/v1/provider", shop.offer_path]
    shop.server.replies.clear()
    assert await listed(source) == [found]
    assert len(shop.server.seen) == 2


async def test_closed_offer__is_dropped_at_once(shop: Shop) -> None:
    source = shop.source()
    assert len(await listed(source)) == 1
    key = next(_numbers)
    shop.owner(lambda owner: owner.set_offer_open(f"{key}-shut", shop.provider, shop.offer_id, is_open=False))
    assert await listed(source) == []
    shop.owner(lambda owner: owner.set_offer_open(f"{key}-open", shop.provider, shop.offer_id, is_open=True))
    assert len(await listed(source)) == 1


async def test_new_version__old_terms_do_not_count_for_it(shop: Shop) -> None:
    source = shop.source()
    assert len(await listed(source)) == 1
    dearer = replace(shop.terms, price_out=shop.terms.price_out + 1)
    for terms in (dearer, shop.terms):
        shop.reprice(terms)
        shop.server.replies[shop.offer_path] = shop.offer(price_out=terms.price_out + 7)
        assert await listed(source) == []
        shop.server.replies[shop.offer_path] = shop.offer(price_out=terms.price_out)
        assert [each.offer.terms for each in await listed(source)] == [terms]


async def test_new_metadata__the_old_document_does_not_count(shop: Shop) -> None:
    source = shop.source()
    assert len(await listed(source)) == 1
    old = shop.server.replies["/v1/provider"]
    shop.publish(name="new")
    new = shop.server.replies["/v1/provider"]
    shop.server.replies["/v1/provider"] = old
    assert await listed(source) == []
    shop.server.replies["/v1/provider"] = new
    assert [each.metadata and each.metadata["name"] for each in await listed(source)] == ["new"]


async def test_metadata_with_an_unknown_sandbox__is_refused_although_signed(shop: Shop) -> None:
    document = shop.metadata()
    document["models"][0]["sandbox"] = "vault"
    digest = document_digest(document)
    shop.owner(lambda owner: owner.set_metadata(shop.provider, digest))
    signature = NODE.sign(shop.market.domain, Document(digest)).to_hex()
    envelope = {"schema": "clawmarket/envelope/1", "document": document, "signature": signature}
    shop.server.replies["/v1/provider"] = Reply(json.dumps(envelope).encode())
    source = shop.source()
    assert await listed(source) == []
    assert not source.is_complete


async def test_metadata_that_claims_a_better_sandbox__is_a_reason_against_the_offer(shop: Shop) -> None:
    document = shop.metadata()
    shop.publish(models=[{**document["models"][0], "sandbox": "gvisor-systrap"}])
    (found,) = await listed(shop.source())
    assert (found.sandbox, found.claimed_sandbox) == (PROMISED, "gvisor-systrap")
    assert list(Limits(LimitSettings(), {}).of_offer(found)) == [
        f"its metadata claims the sandbox gvisor-systrap, its terms {PROMISED}: not trusted"
    ]


async def test_terms_with_an_unknown_sandbox__are_refused_although_the_chain_has_their_digest(shop: Shop) -> None:
    shop.document = {**shop.document, "sandbox": "vault"}
    spoiled = replace(shop.terms, doc_hash=document_digest(shop.document))
    shop.reprice(spoiled)
    shop.server.replies[shop.offer_path] = shop.offer(doc_hash=spoiled.doc_hash)
    assert await listed(shop.source()) == []
    shop.reprice(shop.terms)


METADATA_LIES: dict[str, Callable[[Shop], Reply]] = {
    **NONSENSE,
    "by a stranger": lambda shop: shop.envelope(shop.metadata(node_key=STRANGER.address), STRANGER),
    "another document": lambda shop: shop.envelope(shop.metadata(name="forged")),
    "unsigned": lambda shop: Reply(
        json.dumps(
            {"schema": "clawmarket/envelope/1", "document": shop.metadata(), "signature": "0x" + "11" * 65}
        ).encode()
    ),
    "empty document": lambda shop: Reply(
        json.dumps({"schema": "clawmarket/envelope/1", "document": {}, "signature": "0x" + "11" * 65}).encode()
    ),
}
OFFER_LIES: dict[str, Callable[[Shop], Reply]] = {
    **NONSENSE,
    "other price": lambda shop: shop.offer(price_in=1),
    "no terms": lambda shop: Reply(json.dumps({"document": shop.document}).encode()),
    "odd terms": lambda shop: Reply(json.dumps({"terms": [], "document": {}}).encode()),
    "other document": lambda shop: Reply(
        json.dumps({"terms": terms_to_json(shop.terms), "document": {**shop.document, "region": "DE"}}).encode()
    ),
}


async def refused(shop: Shop, path: str, lie: Reply) -> None:
    honest = shop.server.replies[path]
    shop.server.replies[path] = lie
    source = shop.source()
    assert await listed(source) == []
    assert not source.is_complete
    assert path in shop.server.seen
    shop.server.replies[path] = honest
    assert len(await listed(source)) == 1
    assert source.is_complete


@pytest.mark.slow
@pytest.mark.parametrize("lie", METADATA_LIES)
async def test_metadata_that_lies__nothing_until_it_is_honest(shop: Shop, lie: str) -> None:
    del shop.server.replies["/v1/provider"]
    shop.publish()
    await refused(shop, "/v1/provider", METADATA_LIES[lie](shop))
    assert shop.server.sent < 100_000_000


@pytest.mark.slow
@pytest.mark.parametrize("lie", OFFER_LIES)
async def test_offer_that_lies__nothing_until_it_is_honest(shop: Shop, lie: str) -> None:
    await refused(shop, shop.offer_path, OFFER_LIES[lie](shop))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect__is_not_followed(shop: Shop, status: int) -> None:
    with hostile_server() as inside:
        for path in ("/v1/provider", shop.offer_path):
            inside.replies[path] = shop.server.replies[path]
            await refused(shop, path, Reply(status=status, headers={"Location": inside.url + path}))
        assert inside.seen == []


async def test_address_that_the_document_does_not_list__is_not_used(shop: Shop) -> None:
    """Neither are the addresses it lists: they were not configured."""
    with hostile_server() as inside:
        inside.replies = dict(shop.server.replies)
        shop.publish(endpoints=[{"url": inside.url}])
        assert await listed(shop.source()) == []
        assert inside.seen == []


async def test_expired_metadata__is_dropped_also_when_it_was_good(shop: Shop) -> None:
    now = shop.market.client.head().timestamp
    shop.publish(expires_at=now + 500)
    source = shop.source()
    assert len(await listed(source)) == 1
    shop.market.node.time_travel(600)
    assert await listed(source) == []


async def test_silent_server__does_not_keep_the_others(
    shop: Shop, plain: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT_S", 1.0)
    plain.server.replies["/v1/provider"] = Reply(is_silent=True)
    plain.server.replies["/healthz"] = Reply(is_silent=True)
    source = ChainOffers(shop.market.client, shop.market.domain, [plain.server.url, shop.server.url], NOBODY)
    assert [each.provider for each in await listed(source)] == [shop.provider]
    assert not source.is_complete


async def test_provider_without_metadata__on_this_machine_by_its_offers(plain: Shop) -> None:
    (found,) = await listed(plain.source())
    assert (found.provider, found.metadata, found.endpoint.url) == (plain.provider, None, plain.server.url)


@pytest.mark.parametrize("claim", ["0", "-1", "4294967296", "true", '"1"', "null", "1.0", "[]", "999"])
async def test_claim_to_be_some_provider__needs_to_be_one(plain: Shop, claim: str) -> None:
    await refused(plain, "/healthz", Reply(f'{{"provider": {claim}}}'.encode()))


async def test_claim_to_be_another_provider__its_metadata_is_missing(plain: Shop, shop: Shop) -> None:
    await refused(plain, "/healthz", Reply(f'{{"provider": {shop.provider}}}'.encode()))


async def test_chain_away__the_catalogue_keeps_what_it_has(shop: Shop, market: LiveMarket) -> None:
    with ChainClient([market.node.url], market.client.deployment) as client:
        source = ChainOffers(client, market.domain, [shop.server.url], NOBODY)
        catalogue = Catalogue([source])
        await catalogue.refresh()
        client.close()
        with ChainClient(["http://127.0.0.1:1"], market.client.deployment) as away:
            source._client = away
            with pytest.raises(ChainError):
                await source.candidates()
            await catalogue.refresh()
    assert [each.provider for each in catalogue.candidates] == [shop.provider]
