"""What the consumer asks a real chain: whose a node key is and when, and whether a receipt is anchored."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from consumer import node_keys
from consumer.audit import Inclusion, prove_receipt
from consumer.exceptions import ConsumerError, ProviderFailed, ReceiptRejected
from consumer.node_keys import NodeKeys
from consumer.records import LeaseRecord
from consumer.store import Store
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import RpcUnavailable
from protocol.chain.rpc import RpcLimits
from protocol.chain.views import KeyRecord
from protocol.headers import Signed
from protocol.signing import Signer
from protocol.typed_data import NodeKey, Receipt, Terms
from tests.support.live_market import LiveMarket, live_market, signer_of
from tests.support.shop import open_shop

ETHER = 10**18
_numbers = itertools.count()


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


def install(market: LiveMarket, owner: int, provider: int | None, key: Signer) -> None:
    """Registers a provider with its first node key, or rotates to another."""
    r, vs = key.sign(market.domain, NodeKey(signer_of(owner).address)).compact()
    name = f"key-{next(_numbers)}"
    if provider is None:
        market.call(owner, name, "Registry", "register", key.address, r, vs, bytes(32))
    else:
        market.call(owner, name, "Registry", "rotate_node_key", provider, key.address, r, vs)


def staked(market: LiveMarket, owner: int) -> None:
    """An account with enough CLAW staked to register."""
    amount = 10_000 * ETHER
    if owner != 1:
        market.call(0, f"stake-of-{owner}", "ClawToken", "transfer", signer_of(owner).address, amount)
    staking = market.client.deployment.address("Staking")
    market.call(owner, f"approve-{owner}", "ClawToken", "approve", staking, amount)
    market.call(owner, f"stake-{owner}", "Staking", "stake", amount)


class Rotation:
    """A provider that rotated its key once, and another provider."""

    def __init__(self, market: LiveMarket) -> None:
        self.market = market
        self.old, self.new, self.foreign = (Signer.generate() for _ in range(3))
        staked(market, 1)
        staked(market, 4)
        install(market, 1, None, self.old)
        install(market, 4, None, self.foreign)
        self.provider = market.client.get(market.client.reads.provider_of(signer_of(1).address))
        market.node.time_travel(100)
        install(market, 1, self.provider, self.new)
        self.at = market.client.head().timestamp

    def lookup(self, key: str) -> KeyRecord:
        return self.market.client.get(self.market.client.reads.key_record(key))

    def signed(self, signer: Signer, ended_at: int) -> Signed[Receipt]:
        receipt = Receipt(bytes(32), 0, 0, True, 0, 0, 0, 0, bytes(32), bytes(32), 0, 0, ended_at, bytes(32))
        return Signed(receipt, signer.sign(self.market.domain, receipt))


@pytest.fixture(scope="module")
def rotation(market: LiveMarket) -> Rotation:
    return Rotation(market)


@pytest.fixture
def store(market: LiveMarket, rotation: Rotation, tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "consumer.sqlite", market.domain)
    address = market.token
    opened.add_lease(
        LeaseRecord(
            lease_id=bytes(32),
            owner=address,
            provider=rotation.provider,
            offer_id=1,
            version=1,
            token=address,
            deposit=1,
            expiry=1,
            signer=address,
            key_file="",
            endpoint="http://127.0.0.1:1",
            node_key=rotation.old.address,
            model="tiny",
            fingerprint=bytes(32),
            terms=Terms(0, address, 1, 1, 1, 1, 0, 0, 0, 0, bytes(32)),
        )
    )
    yield opened
    opened.close()


def keys(rotation: Rotation, store: Store, **changes: Any) -> NodeKeys:
    record = store.lease(bytes(32))
    options: dict[str, Any] = {"lookup": rotation.lookup, **changes}
    return NodeKeys(rotation.market.domain, store, record, **options)


async def test_receipts_by_the_new_key_count_from_its_start(rotation: Rotation, store: Store) -> None:
    with pytest.raises(ReceiptRejected, match="not of the receipt's time"):
        await keys(rotation, store).check(rotation.signed(rotation.new, rotation.at - 1))
    assert store.lease(bytes(32)).node_key == rotation.old.address
    await keys(rotation, store).check(rotation.signed(rotation.new, rotation.at))
    assert store.lease(bytes(32)).node_key == rotation.new.address


async def test_receipts_by_the_old_key_count_up_to_its_end(rotation: Rotation, store: Store) -> None:
    await keys(rotation, store).check(rotation.signed(rotation.old, rotation.at))
    with pytest.raises(ReceiptRejected, match="not of the receipt's time"):
        await keys(rotation, store).check(rotation.signed(rotation.old, rotation.at + 1))
    assert store.lease(bytes(32)).node_key == rotation.old.address


async def test_an_end_that_comes_later_is_noticed(
    rotation: Rotation, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"until": node_keys.FOREVER}
    found = keys(rotation, store, lookup=lambda key: replace(rotation.lookup(key), valid_until=told["until"]))
    await found.check(rotation.signed(rotation.old, rotation.at + 1))
    told["until"] = rotation.at
    await found.check(rotation.signed(rotation.old, rotation.at + 1))
    monkeypatch.setattr(node_keys, "MAX_AGE_S", 0.0)
    with pytest.raises(ReceiptRejected, match="not of the receipt's time"):
        await found.check(rotation.signed(rotation.old, rotation.at + 1))


@pytest.mark.parametrize("whose", ["another provider's", "nobody's"])
async def test_other_keys_never_count(rotation: Rotation, store: Store, whose: str) -> None:
    signer = rotation.foreign if whose == "another provider's" else Signer.generate()
    with pytest.raises(ReceiptRejected, match="not by the provider's node key"):
        await keys(rotation, store).check(rotation.signed(signer, rotation.at))
    assert store.lease(bytes(32)).node_key == rotation.old.address


async def test_signatures_of_another_chain_never_count(rotation: Rotation, store: Store) -> None:
    receipt = rotation.signed(rotation.new, rotation.at).message
    other = replace(rotation.market.domain, chain_id=1)
    with pytest.raises(ReceiptRejected, match="not by the provider's node key"):
        await keys(rotation, store).check(Signed(receipt, rotation.new.sign(other, receipt)))


async def test_without_a_chain_the_known_key_counts_and_no_other(rotation: Rotation, store: Store) -> None:
    with ChainClient(
        ["http://127.0.0.1:1"], rotation.market.client.deployment, limits=RpcLimits(rounds=1)
    ) as unreachable:

        def lookup(key: str) -> KeyRecord:
            return unreachable.get(unreachable.reads.key_record(key))

        found = keys(rotation, store, lookup=lookup)
        await found.check(rotation.signed(rotation.old, rotation.at))
        with pytest.raises(RpcUnavailable):
            await found.check(rotation.signed(rotation.new, rotation.at))
    with pytest.raises(ReceiptRejected, match="not by the provider's node key"):
        await keys(rotation, store, lookup=None).check(rotation.signed(rotation.new, rotation.at))


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """An HTTP server that always answers this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


GOOD: dict[str, Any] = {"position": 0, "count": 1, "root": "0x" + "11" * 32, "proof": []}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({**GOOD, "count": -1}, ReceiptRejected),
        ({**GOOD, "count": 0}, ReceiptRejected),
        ({**GOOD, "count": 1 << 64}, ReceiptRejected),
        ({**GOOD, "count": 10**400}, ReceiptRejected),
        ({**GOOD, "position": -1}, ReceiptRejected),
        ({**GOOD, "position": 1}, ReceiptRejected),
        ({**GOOD, "position": 1 << 300, "count": 1 << 301}, ReceiptRejected),
        (GOOD, ReceiptRejected),
        ({**GOOD, "count": True}, ProviderFailed),
        ({**GOOD, "count": "1"}, ProviderFailed),
        ({**GOOD, "count": 1.0}, ProviderFailed),
        ({**GOOD, "position": None}, ProviderFailed),
        ({**GOOD, "proof": 7}, ProviderFailed),
        ({**GOOD, "proof": ["0x11"]}, ProviderFailed),
        ({**GOOD, "proof": [7]}, ProviderFailed),
        ({**GOOD, "root": 5}, ProviderFailed),
        ([], ProviderFailed),
        ({**GOOD, "proof": ["0x" + "11" * 32] * 2_000}, ProviderFailed),
    ],
)
def test_an_impossible_proof_is_a_consumers_error(
    market: LiveMarket, rotation: Rotation, content: object, error: type[ConsumerError]
) -> None:
    with answering(json.dumps(content).encode()) as url, pytest.raises(error):
        prove_receipt(market.client, market.domain, url, rotation.provider, rotation.signed(rotation.new, rotation.at))


def test_a_proof_under_an_earlier_anchor_counts_and_one_under_none_does_not(market: LiveMarket, tmp_path: Path) -> None:
    shop = open_shop(market, tmp_path / "shop")
    lease_id = shop.open_lease()
    signed = []
    for seq in range(2):
        shop.admit(lease_id, seq)
        signed.append(shop.finish(lease_id, seq))
        shop.anchor()
    shop.admit(lease_id, 2)
    signed.append(shop.finish(lease_id, 2))

    def prove(position: int, count: int) -> Inclusion:
        with closing(shop.ledger()) as ledger:
            proof, root = ledger.inclusion_proof(position, count), ledger.root(count)
        content = {
            "position": position,
            "count": count,
            "root": "0x" + root.hex(),
            "proof": ["0x" + node.hex() for node in proof],
        }
        with answering(json.dumps(content).encode()) as url:
            return prove_receipt(market.client, market.domain, url, shop.provider, signed[position])

    assert prove(0, 1).count == 1
    assert prove(1, 2).count == 2
    for position in (0, 2):
        with pytest.raises(ReceiptRejected, match="was not anchored"):
            prove(position, 3)
