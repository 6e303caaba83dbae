"""The worker as a process, on a real chain: its whole work, kill -9, outages, and starts that cannot work."""

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from consumer.audit import Inclusion, prove_on_chain, prove_receipt
from consumer.exceptions import ProviderFailed
from consumer.store import Store
from protocol import money
from protocol.chain.exceptions import InsufficientFunds
from protocol.headers import Signed, parse_response_headers
from protocol.typed_data import Receipt, digest
from provider.enrolment import Enrolment
from provider.ledger import Ledger
from provider.owner import Owner
from tests.support.anvil import wait_for
from tests.support.engine_slots import hold_engine_slots
from tests.support.live_market import ETHER, LiveMarket, WorkerProcess, ask, live_market, signer_of
from tests.support.raw_gateway import RawGateway, Received, chat_body, prepare
from tests.support.tiny_gguf import NAME, write_tiny_gguf

DAY_S = 86_400


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture(scope="module")
def enrolment(market: LiveMarket) -> Enrolment:
    # the consumer of these tests leaves answers unpaid, which all count against its one cap
    found = market.enrol(market.folder / "provider", credit_stranger=20_000)
    market.node.set_balance(found.operator, ETHER)
    return found


@pytest.fixture
def store(market: LiveMarket, tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "consumer.sqlite", market.domain)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def slot() -> Iterator[None]:
    with hold_engine_slots(1):
        yield


def ledger_of(market: LiveMarket, enrolment: Enrolment) -> Ledger:
    return Ledger(enrolment.config.parent / "data" / "ledger.sqlite", market.domain, enrolment.provider)


def proof(market: LiveMarket, endpoint: str, enrolment: Enrolment, receipt: Signed[Receipt]) -> Inclusion | None:
    """The proof, None while the receipt is not anchored."""
    try:
        return prove_receipt(market.client, market.domain, endpoint, enrolment.provider, receipt)
    except ProviderFailed:
        return None


def test_paid_anchored_settled_and_withdrawn(market: LiveMarket, enrolment: Enrolment, store: Store) -> None:
    with WorkerProcess(enrolment.config) as worker:
        endpoint = worker.wait_ready()
        record, session = market.open_lease(store, endpoint, enrolment)
        ends = [ask(market, store, record, session) for _ in range(3)]
        owed = store.owed(record.lease_id)
        assert owed == sum(end.receipt.message.cost for end in ends)
        wait_for(lambda: market.client.lease(record.lease_id).settled == owed)
        for end in ends:
            inclusion = wait_for(partial(proof, market, endpoint, enrolment, end.receipt))
            assert prove_on_chain(market.client, market.domain, enrolment.provider, end.receipt.message, inclusion)
        assert worker.stop() == 0
    earnings = market.client.earnings(enrolment.provider, market.token)
    fee = money.fee(owed, 500)
    assert earnings.held + earnings.free == owed - fee
    market.node.time_travel(5 * DAY_S)
    with market.sender("owner", 1) as sender:
        owner = Owner(market.client, sender, market.domain)
        owner.collect("test", enrolment.provider, market.token)
        before = market.client.get(market.client.reads.view("TestUSDC", "balanceOf", owner.address))
        owner.withdraw("test", market.token, owed - fee, owner.address)
        after = market.client.get(market.client.reads.view("TestUSDC", "balanceOf", owner.address))
    assert after - before == owed - fee


def test_killed_between_commit_and_send(market: LiveMarket, enrolment: Enrolment, store: Store) -> None:
    with WorkerProcess(enrolment.config) as worker:
        record, session = market.open_lease(store, worker.wait_ready(), enrolment)
    now = market.node.timestamp()
    prepared = prepare(
        record.lease_id, body=chat_body(), max_cost=5_000, sent_at=now, signer=session, domain=market.domain
    )
    received = Received()
    crash = ("receipt final commit after", "1")
    with WorkerProcess(enrolment.config, "tests.support.crashing_worker", crash) as worker:
        endpoint = worker.wait_ready()

        async def break_off() -> None:
            async with RawGateway(endpoint) as gateway:
                async for _ in gateway.lines(prepared, received):
                    pass

        with pytest.raises(httpx.HTTPError):
            asyncio.run(break_off())
        assert worker.wait_end() == -9
    assert len(received.tokens) == 20
    assert not any(receipt.message.final for receipt in received.receipts)
    ledger = ledger_of(market, enrolment)
    committed = ledger.final_receipt(record.lease_id, 0)
    count = ledger.count
    ledger.close()
    assert committed is not None
    with WorkerProcess(enrolment.config) as worker:
        endpoint = worker.wait_ready()

        async def repeat() -> list[str]:
            async with RawGateway(endpoint) as gateway:
                texts = []
                for _ in range(2):
                    response = await gateway.post(prepared)
                    assert response.status_code == 409
                    signed = parse_response_headers(response.headers.items()).receipt
                    assert signed is not None
                    texts.append(signed.encode())
                return texts

        assert asyncio.run(repeat()) == [committed.encode()] * 2
        worker.stop()
    ledger = ledger_of(market, enrolment)
    assert ledger.count == count
    assert ledger.account(record.lease_id).served == committed.message.cost
    assert ledger.unfinished() == []
    ledger.check()
    ledger.close()


def test_killed_in_the_middle_of_an_answer(market: LiveMarket, enrolment: Enrolment, store: Store) -> None:
    with WorkerProcess(enrolment.config) as worker:
        endpoint = worker.wait_ready()
        record, session = market.open_lease(store, endpoint, enrolment)
        now = market.node.timestamp()
        prepared = prepare(
            record.lease_id,
            body=chat_body(max_tokens=200),
            max_cost=20_000,
            cumulative=0,
            sent_at=now,
            signer=session,
            domain=market.domain,
        )
        received = Received()

        async def kill_when_half_way() -> None:
            async with RawGateway(endpoint) as gateway:
                async for _ in gateway.lines(prepared, received):
                    if len(received.receipts) == 1:
                        worker.process.kill()

        with pytest.raises(httpx.HTTPError):
            asyncio.run(kill_when_half_way())
        worker.wait_end()
    with WorkerProcess(enrolment.config) as worker:
        worker.wait_ready()
        assert "1 requests were interrupted" in worker.output
        worker.stop()
    ledger = ledger_of(market, enrolment)
    final = ledger.final_receipt(record.lease_id, 0)
    assert final is not None
    assert final.message.cost >= received.receipts[0].message.cost
    assert ledger.position(record.lease_id, 0) is not None
    assert len(digest(market.domain, final.message)) == 32
    ledger.check()
    ledger.close()


def test_chain_outage_stops_neither_serving_nor_paying(market: LiveMarket, enrolment: Enrolment, store: Store) -> None:
    """The node is stopped by SIGSTOP, so that it answers nothing and forgets nothing."""
    with WorkerProcess(enrolment.config) as worker:
        endpoint = worker.wait_ready()
        record, session = market.open_lease(store, endpoint, enrolment)
        first = ask(market, store, record, session)
        wait_for(lambda: market.client.lease(record.lease_id).settled == first.receipt.message.cost)
        now = market.node.timestamp()
        prepared = prepare(
            record.lease_id,
            seq=500,
            cumulative=first.receipt.message.cost,
            sent_at=now,
            signer=session,
            domain=market.domain,
        )
        os.kill(market.node.pid, signal.SIGSTOP)
        try:

            async def again() -> Received:
                async with RawGateway(endpoint) as gateway:
                    gateway.http.timeout = httpx.Timeout(120)
                    return await gateway.ask(prepared)

            answer = asyncio.run(again())
        finally:
            os.kill(market.node.pid, signal.SIGCONT)
        assert len(answer.tokens) == 20
        assert answer.final.cost > 0
        assert worker.process.poll() is None


def test_operator_without_ether_serves_and_says_so(market: LiveMarket, enrolment: Enrolment, store: Store) -> None:
    before = market.node.balance(enrolment.operator)
    market.node.set_balance(enrolment.operator, 1_000)
    try:
        with WorkerProcess(enrolment.config) as worker:
            endpoint = worker.wait_ready()
            record, session = market.open_lease(store, endpoint, enrolment)
            end = ask(market, store, record, session)
            wait_for(lambda: f"{enrolment.operator} has 1000 wei" in worker.output)
            assert market.client.lease(record.lease_id).settled == 0
            market.node.set_balance(enrolment.operator, ETHER)
            wait_for(lambda: market.client.lease(record.lease_id).settled == end.receipt.message.cost)
    finally:
        market.node.set_balance(enrolment.operator, max(before, ETHER))


def test_owner_without_ether_changes_nothing(market: LiveMarket, tmp_path: Path) -> None:
    owner = signer_of(1).address
    before = market.node.balance(owner)
    market.node.set_balance(owner, 0)
    try:
        with market.sender("owner", 1) as sender:
            account = Owner(market.client, sender, market.domain)
            with pytest.raises(InsufficientFunds, match=f"{owner} has 0 wei"):
                account.stake(20_000 * 10**18)
            assert sender.pending() == []
    finally:
        market.node.set_balance(owner, before)


def edited(enrolment: Enrolment, folder: Path, old: str, new: str) -> Path:
    """A copy of the configuration beside copies of the keys, with one change."""
    source = enrolment.config.parent
    for name in ("node.json", "operator.json", "password"):
        (folder / name).write_bytes((source / name).read_bytes())
        (folder / name).chmod(0o600)
    text = enrolment.config.read_text()
    text = text.replace("[provider]\n", f'[provider]\ndata = "{source}/data"\n')
    assert old in text
    text = text.replace(old, new)
    (folder / "provider.toml").write_text(text)
    return folder / "provider.toml"


def moved(enrolment: Enrolment, folder: Path, model: Path) -> Path:
    """A copy of the configuration, the offers and the ledger, with the model's file at another path."""
    source = enrolment.config.parent
    shutil.copytree(source / "data", folder / "data")
    for ledger in (source / "data").glob("ledger.sqlite*"):
        shutil.copy(ledger, folder / "data")
    (folder / "data" / "model-files.json").write_text(json.dumps({NAME: str(model)}))
    return edited(enrolment, folder, f'data = "{source}/data"', f'data = "{folder}/data"')


def fails(config: Path, words: str) -> None:
    """A start that ends at once with these words, one line, and no traceback."""
    with WorkerProcess(config) as worker:
        assert worker.wait_end() == 1
        assert words in worker.output
        assert "Traceback" not in worker.output


def test_port_in_use(enrolment: Enrolment, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fails(edited(enrolment, tmp_path, "port = 0", f"port = {port}"), f"cannot listen on 127.0.0.1 port {port}")


def test_no_chain(market: LiveMarket, enrolment: Enrolment, tmp_path: Path) -> None:
    fails(edited(enrolment, tmp_path, market.node.url, "http://127.0.0.1:1"), "no RPC endpoint answers")


def test_wrong_password(enrolment: Enrolment, tmp_path: Path) -> None:
    config = edited(enrolment, tmp_path, "port = 0", "port = 0")
    (tmp_path / "password").write_text("wrong\n")
    fails(config, "password")


def test_foreign_deployment_file(market: LiveMarket, enrolment: Enrolment, tmp_path: Path) -> None:
    text = market.deployment_file.read_text()
    changes = {
        "genesis": (
            f'"genesis_hash": "0x{market.client.deployment.genesis_hash.hex()}"',
            '"genesis_hash": "0x' + "11" * 32 + '"',
        ),
        "chain": ('"chain_id": 31337', '"chain_id": 1'),
        "address": (market.client.deployment.address("Registry"), "0x" + "2" * 40),
        "damaged": ("{", "["),
    }
    words = {"genesis": "genesis", "chain": "chain", "address": "no code", "damaged": "not valid JSON"}
    for name, (old, new) in changes.items():
        assert old in text
        path = tmp_path / f"{name}.json"
        path.write_text(text.replace(old, new, 1))
        folder = tmp_path / name
        folder.mkdir()
        fails(edited(enrolment, folder, str(market.deployment_file), str(path)), words[name])


@pytest.mark.parametrize("content", [None, b"no model"], ids=["missing", "damaged"])
def test_unusable_model(enrolment: Enrolment, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    config = moved(enrolment, tmp_path, path)
    fails(config, "cannot be read" if content is None else "not a readable GGUF file")


def test_another_model_than_promised(enrolment: Enrolment, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=9)
    fails(moved(enrolment, tmp_path, other), "is another file than promised")


def test_no_model_of_that_offer(enrolment: Enrolment, tmp_path: Path) -> None:
    config = moved(enrolment, tmp_path, tmp_path)
    (tmp_path / "data" / "models.json").unlink()
    fails(config, "register the right one with `clawmarket models add`")


def test_another_providers_id(enrolment: Enrolment, tmp_path: Path) -> None:
    fails(
        edited(enrolment, tmp_path, f"\nid = {enrolment.provider}\n", "\nid = 999\n"), "provider 999 has the node key"
    )


def test_bad_configuration(enrolment: Enrolment, tmp_path: Path) -> None:
    for number, (old, new, words) in enumerate(
        [
            ("port = 0", "port = 70000", "serving.port"),
            ("port = 0", "prot = 0", "serving.prot"),
            ("[engine]", "[engine", "is not TOML"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        fails(edited(enrolment, folder, old, new), words)


def test_second_worker_on_the_same_data_is_refused(enrolment: Enrolment, tmp_path: Path) -> None:
    with WorkerProcess(enrolment.config) as worker:
        worker.wait_ready()
        fails(edited(enrolment, tmp_path, "port = 0", "port = 0"), "use")
