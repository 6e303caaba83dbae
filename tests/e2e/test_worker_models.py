"""Several models in one worker process: one in memory at a time, and one on another server, all bought and paid."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.store import Store
from provider.config import load_config
from provider.enrolment import Enrolment
from provider.model_card import FOREIGN_ENGINE
from provider.offers import OfferBook
from provider.sandbox import containers
from provider.sandbox.daemon import Daemon
from provider.sandbox.paths import VARIABLE
from scripts.default_model import NAME as LARGE
from scripts.default_model import default_model
from tests.support.anvil import ROOT
from tests.support.engine_slots import hold_engine_slots
from tests.support.live_market import ETHER, PASSWORD, LiveMarket, WorkerProcess, ask, live_market
from tests.support.llama_server import llama_server
from tests.support.sandbox import worker_sandbox
from tests.support.tiny_gguf import NAME, write_tiny_gguf

SECOND = "tiny-second"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture(scope="module")
def enrolment(market: LiveMarket) -> Enrolment:
    found = market.enrol(market.folder / "provider", credit_stranger=50_000)
    market.node.set_balance(found.operator, ETHER)
    return found


@pytest.fixture(autouse=True)
def slot() -> Iterator[None]:
    with hold_engine_slots(2):
        yield


@pytest.fixture
def store(market: LiveMarket, tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "consumer.sqlite", market.domain)
    yield opened
    opened.close()


def add_offer(enrolment: Enrolment, model: Path, name: str) -> None:
    prices = ("--price-in=0.01 USDC per 1K tokens", "--price-out=0.03 USDC per 1K tokens")
    command = [sys.executable, str(ROOT / "clawmarket_cli.py"), "provider", "offers", "add", *prices]
    done = subprocess.run(
        [*command, f"--model={model}", f"--model-name={name}"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            VARIABLE: str(worker_sandbox().state.parent),
            "CLAWMARKET_PROVIDER": str(enrolment.config),
            "CLAWMARKET_OWNER": str(enrolment.config.parent / "owner.json"),
            "CLAWMARKET_PASSWORD": PASSWORD.reveal(),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def engines(worker: WorkerProcess) -> list[str]:
    """The model files in the containers of the worker's engines."""
    client = Daemon(worker_sandbox()).client()
    try:
        owned = [each for each in containers.ours(client) if f".{worker.process.pid}." in each.labels[containers.OWNER]]
        return [each.attrs["Mounts"][0]["Source"] for each in owned if each.labels[containers.ROLE] == "engine"]
    finally:
        client.close()


def test_two_models_take_turns_in_memory_for_one(
    market: LiveMarket, enrolment: Enrolment, store: Store, tmp_path: Path
) -> None:
    second = write_tiny_gguf(tmp_path / "second.gguf", seed=2)
    add_offer(enrolment, second, SECOND)
    before = enrolment.config.read_text()
    enrolment.config.write_text(before.replace("[engine]\n", '[engine]\nmemory = "200 MiB"\n'))
    with WorkerProcess(enrolment.config) as worker:
        endpoint = worker.wait_ready()
        leases = [market.open_lease(store, endpoint, replace(enrolment, offer_id=number)) for number in (1, 2)]
        assert [record.model for record, _ in leases] == [NAME, SECOND]
        for _ in range(2):
            for record, session in leases:
                end = ask(market, store, record, session)
                assert end.receipt.message.model_fingerprint == record.fingerprint
                assert len(engines(worker)) == 1
        assert worker.stop() == 0
    enrolment.config.write_text(before)


def test_a_model_on_another_server_is_sold_and_paid(market: LiveMarket, enrolment: Enrolment, store: Store) -> None:
    with llama_server(default_model(), LARGE, 512) as server:
        with enrolment.config.open("a") as file:
            file.write(f'[backends.{LARGE}]\nurl = "{server.url}"\nmodel = "{LARGE}"\n')
        add_offer(enrolment, default_model(), LARGE)
        book = OfferBook(load_config(enrolment.config).provider.data / "offers")
        offer = next(found for found in book.current() if found.model_name == LARGE)
        assert offer.document["model"]["engine"]["name"] == FOREIGN_ENGINE
        with WorkerProcess(enrolment.config) as worker:
            endpoint = worker.wait_ready()
            record, session = market.open_lease(store, endpoint, replace(enrolment, offer_id=offer.offer_id))
            end = ask(market, store, record, session, default_model())
            assert store.owed(record.lease_id) == end.receipt.message.cost > 0
            assert record.engine == FOREIGN_ENGINE
            assert worker.stop() == 0
