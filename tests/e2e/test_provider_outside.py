"""What is seen of a worker from outside: status, metrics, readiness, logs, TLS by pin, and the owner's commands."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumer.endpoints import Endpoint, find_endpoint
from consumer.exceptions import OfferMismatch, ProviderFailed
from consumer.lease import Leases, LeaseWish
from consumer.offers import fetch_offer
from consumer.store import Store
from protocol import keystore
from provider import tls
from provider.config import load_config
from provider.enrolment import Enrolment
from provider.observing.operations import address_of
from provider.publishing import publish
from provider.sandbox.paths import VARIABLE
from provider.sandbox.serving import find_sandbox
from provider.sandbox.tiers import PRODUCTION_TIERS
from tests.e2e.test_readme import free_port
from tests.support.anvil import ROOT, wait_for
from tests.support.engine_slots import hold_engine_slots
from tests.support.live_market import (
    ETHER,
    PASSWORD,
    SCRYPT_N,
    LiveMarket,
    WorkerProcess,
    ask,
    live_market,
    signer_of,
)
from tests.support.sandbox import worker_sandbox
from tests.support.tls_server import tls_server


@dataclass(frozen=True)
class Shop:
    """An https provider with published metadata."""

    market: LiveMarket
    enrolment: Enrolment
    url: str

    @property
    def owner(self) -> Path:
        return self.enrolment.config.parent / "owner.json"

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`clawmarket provider …` with the configuration and keys of this provider."""
        return subprocess.run(
            [sys.executable, str(ROOT / "clawmarket_cli.py"), "provider", *arguments],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                VARIABLE: str(worker_sandbox().state.parent),
                "CLAWMARKET_PROVIDER": str(self.enrolment.config),
                "CLAWMARKET_OWNER": str(self.owner),
                "CLAWMARKET_PASSWORD": PASSWORD.reveal(),
                "COLUMNS": "200",
            },
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with live_market(tmp_path_factory.mktemp("outside")) as running:
        port = free_port(set())
        market = replace(running, promised=find_sandbox(worker_sandbox()))
        enrolment = market.enrol(market.folder / "provider", port=port, credit_stranger=20_000)
        market.node.set_balance(enrolment.operator, ETHER)
        url = f"https://127.0.0.1:{port}"
        with enrolment.config.open("a") as file:
            file.write(f'[tls]\nenabled = true\n[metadata]\nurls = ["{url}"]\nname = "test"\n')
        found = Shop(market, enrolment, url)
        publish(load_config(enrolment.config), found.owner, PASSWORD, lambda _: None)
        yield found


@pytest.fixture(autouse=True)
def slot() -> Iterator[None]:
    with hold_engine_slots(1):
        yield


@pytest.fixture
def store(shop: Shop, tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "consumer.sqlite", shop.market.domain)
    yield opened
    opened.close()


def operations_of(shop: Shop) -> str:
    found: str = wait_for(lambda: address_of(load_config(shop.enrolment.config).provider.data))
    return found


def test_https_with_the_published_pin__a_paid_answer_and_all_its_traces(shop: Shop, store: Store) -> None:
    market = shop.market
    with WorkerProcess(shop.enrolment.config) as worker:
        assert worker.wait_ready() == shop.url
        place = find_endpoint(market.client, market.domain, shop.enrolment.provider, shop.url)
        assert place.tls_pin == tls.ensure(shop.enrolment.config.parent, []).pin
        offer = fetch_offer(market.client, place, shop.enrolment.provider, shop.enrolment.offer_id)
        leases = Leases(market.client, market.domain, store, market.folder / "sessions", PASSWORD, SCRYPT_N)
        with market.sender("consumer", 2) as sender:
            request, record = leases.prepare(signer_of(2).address, offer, place, LeaseWish(1_000_000))
            leases.open(sender, request)
        session = leases.session_key(record)
        end = ask(market, store, record, session)
        cost, units_out = end.receipt.message.cost, end.receipt.message.units_out
        assert cost > 0

        with pytest.raises(ProviderFailed, match="not the one the provider published"):
            ask(market, store, replace(record, tls_pin="0" * 64), session)

        wait_for(lambda: market.client.lease(record.lease_id).settled >= cost)
        operations = operations_of(shop)
        wait_for(lambda: httpx.get(f"{operations}/status").json()["ledger"]["anchored"] == 1, timeout=40)
        ready = httpx.get(f"{operations}/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
        assert httpx.get(f"{operations}/healthz").json() == {"alive": True}

        status: dict[str, Any] = json.loads(shop.command("status", "--json").stdout)
        assert status["worker"]["models"][0]["units_out"] == units_out
        assert status["worker"]["models"][0]["requests"] == 1
        money = next(row for row in status["money"] if row["symbol"] == "USDC")
        wait_for(lambda: _usdc(operations)["held"] == str(cost - cost * 500 // 10_000), timeout=40)
        assert money["unpaid"] == "0"
        assert status["offers"][0]["active"] == 1
        assert status["alerts"] == []

        shown = shop.command("status", "--once")
        assert shown.returncode == 0, shown
        assert "10000 CLAW" in shown.stdout
        tier = status["worker"]["sandbox"]
        assert tier in PRODUCTION_TIERS
        assert f"ready, sandbox {tier}, up" in shown.stdout
        assert f"open, sandbox {tier}, 1 of" in shown.stdout
        assert httpx.get(f"{shop.url}/healthz", verify=False).json()["sandbox"] == tier
        assert "nothing to look after" in shown.stdout

        lines = httpx.get(f"{operations}/metrics").text.splitlines()
        model = record.model
        assert f'clawmarket_tokens_total{{kind="out",model="{model}"}} {units_out}.0' in lines
        assert f'clawmarket_requests_running{{model="{model}"}} 0.0' in lines
        assert any(line.startswith("clawmarket_requests_total{") and line.endswith(" 1.0") for line in lines)
        assert 'clawmarket_base_units{kind="unpaid",token="USDC"} 0.0' in lines
        assert f'clawmarket_sandbox{{tier="{tier}"}} 1.0' in lines
        assert any(line.startswith('clawmarket_sandbox_containers{role="engine"') for line in lines)
        assert "clawmarket_ledger_receipts 1.0" in lines
        assert "clawmarket_anchor_lag_receipts 0.0" in lines
        for name in ("settlement_lag_seconds", "last_tick_timestamp_seconds", "queue", "engine_restarts"):
            assert any(line.startswith(f"clawmarket_{name} ") for line in lines), name

        public = httpx.get(f"{shop.url}/readyz", verify=False)
        assert (public.status_code, public.json()) == (200, {"ready": True})
        envelope = httpx.get(f"{shop.url}/v1/provider", verify=False)
        again = httpx.get(f"{shop.url}/v1/provider", verify=False, headers={"If-None-Match": envelope.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert httpx.get(f"{shop.url}/metrics", verify=False).status_code == 404
        assert worker.stop() == 0
    assert address_of(load_config(shop.enrolment.config).provider.data) is None
    voucher = store.highest_voucher(record.lease_id)
    assert voucher is not None
    _check_output(shop, worker.output, voucher.encode())


def _usdc(operations: str) -> dict[str, Any]:
    rows = httpx.get(f"{operations}/status").json()["money"]
    return next(row for row in rows if row["symbol"] == "USDC")


def _check_output(shop: Shop, output: str, voucher: str) -> None:
    """No line of a real run holds a secret; the same search finds one that is put there."""
    folder = shop.enrolment.config.parent
    secrets = [
        PASSWORD.reveal(),
        voucher.rpartition("0x")[2],
        "hello",
        *(keystore.load(folder / name, PASSWORD).private_key.hex() for name in ("node.json", "operator.json")),
        (folder / tls.KEY_FILE).read_text().splitlines()[1],
    ]
    assert output.strip()
    for line in output.splitlines():
        json.loads(line)
    for secret in secrets:
        assert secret not in output
        assert secret in output + secret


def test_thief_with_another_certificate__is_not_talked_to(shop: Shop, store: Store) -> None:
    """Nor is forged metadata believed. The control: without the pin the same server gets the same request."""
    market, provider = shop.market, shop.enrolment.provider
    envelope = (load_config(shop.enrolment.config).provider.data / "metadata.json").read_bytes()
    forged = envelope.replace(shop.url.encode(), b"https://127.0.0.1:1")
    with (
        tls_server(market.folder / "thief", forged) as thief,
        pytest.raises(OfferMismatch, match="shows other metadata than the registry has"),
    ):
        find_endpoint(market.client, market.domain, provider, thief.url)
    with tls_server(market.folder / "thief", envelope) as thief:
        with pytest.raises(OfferMismatch, match=f"does not list {thief.url}: use {shop.url}"):
            find_endpoint(market.client, market.domain, provider, thief.url)
        pin = tls.ensure(shop.enrolment.config.parent, []).pin
        with pytest.raises(ProviderFailed, match="not the one the provider published"):
            fetch_offer(market.client, Endpoint(thief.url, pin), provider, 1)
        assert [line for line in thief.received if "/v1/offers" in line] == []
        with pytest.raises(OfferMismatch, match="malformed"):
            fetch_offer(market.client, Endpoint(thief.url, thief.pin), provider, 1)
        assert len([line for line in thief.received if "/v1/offers" in line]) == 1


def test_status__worker_down__says_so_from_ledger_and_chain(shop: Shop) -> None:
    answer = shop.command("status", "--once")
    assert answer.returncode == 3
    assert "the worker does not run" in answer.stdout
    assert "10000 CLAW" in answer.stdout
    status = json.loads(shop.command("status", "--json").stdout)
    assert status["worker"] is None
    assert status["ledger"]["receipts"] >= 1


def test_offers__price_pause_resume__on_chain_and_in_human_units(shop: Shop) -> None:
    listed = shop.command("offers")
    assert "in 0.01 USDC per 1K tokens, cached 0.005 USDC per 1K tokens, out 0.03 USDC per 1K tokens" in listed.stdout
    changed = shop.command(
        "offers", "price", "1", "--price-in=0.02 USDC per 1K tokens", "--price-out=0.04 USDC per 1K tokens"
    )
    assert changed.returncode == 0, changed.stderr
    assert "offer 1 is now version 2" in changed.stdout
    again = shop.command(
        "offers", "price", "1", "--price-in=0.02 USDC per 1K tokens", "--price-out=0.04 USDC per 1K tokens"
    )
    assert "offer 1 is now version 2" in again.stdout
    client, provider = shop.market.client, shop.enrolment.provider
    assert client.offer(provider, 1).version == 2
    assert "out 0.04 USDC per 1K tokens" in shop.command("offers").stdout
    assert "offer 1 is paused" in shop.command("offers", "pause").stdout
    assert not client.offer(provider, 1).is_open
    assert "paused" in shop.command("offers").stdout
    assert shop.command("offers", "resume", "1").returncode == 0
    assert client.offer(provider, 1).is_open
    unknown = shop.command("offers", "pause", "9")
    assert (unknown.returncode, "there is no offer 9" in unknown.stderr) == (1, True)


def test_stake__add_cooldown_withdraw__with_their_consequences(shop: Shop) -> None:
    assert "active   10000 CLAW, the minimum is 10000 CLAW" in shop.command("stake").stdout
    assert shop.command("stake", "add", "500", "--yes").returncode == 0
    warned = shop.command("stake", "cooldown", "1000", stdin="n\n")
    assert "DEREGISTERED" in warned.stdout
    assert (warned.returncode, "nothing was done" in warned.stdout) == (1, True)
    harmless = shop.command("stake", "cooldown", "500 CLAW", stdin="y\n")
    assert harmless.returncode == 0, harmless.stderr
    assert "DEREGISTERED" not in harmless.stdout
    early = shop.command("stake", "withdraw")
    assert (early.returncode, "the cooldown runs until" in early.stderr) == (1, True)
    assert "cooling  500 CLAW" in shop.command("stake").stdout
    too_much = shop.command("stake", "cooldown", "20000", "--yes")
    assert (too_much.returncode, "only 10000 CLAW are active" in too_much.stderr) == (1, True)
    client = shop.market.client
    assert client.get(client.reads.view("Registry", "is_registered", shop.enrolment.provider))


def test_publish__again__sends_nothing_and_a_changed_document_is_noticed(shop: Shop) -> None:
    assert "already" in shop.command("publish").stdout
    text = shop.enrolment.config.read_text()
    try:
        shop.enrolment.config.write_text(text.replace('name = "test"', 'name = "other"'))
        assert "published the metadata" in shop.command("publish").stdout
    finally:
        shop.enrolment.config.write_text(text)
    stale = load_config(shop.enrolment.config).provider.data / "metadata.json"
    other = stale.read_bytes()
    assert "published the metadata" in shop.command("publish").stdout
    mine = stale.read_bytes()
    stale.write_bytes(other)
    try:
        with WorkerProcess(shop.enrolment.config) as worker:
            worker.wait_ready()
            assert "metadata digest is not that of the document" in worker.output
    finally:
        stale.write_bytes(mine)


def test_readyz__ledger_gone__says_why_to_the_owner_alone(shop: Shop) -> None:
    with WorkerProcess(shop.enrolment.config) as worker:
        worker.wait_ready()
        operations = operations_of(shop)
        ledger = load_config(shop.enrolment.config).provider.data / "ledger.sqlite"
        assert httpx.get(f"{operations}/readyz").status_code == 200
        hidden = ledger.rename(ledger.with_suffix(".hidden"))
        try:
            wait_for(lambda: httpx.get(f"{operations}/readyz").status_code == 503, timeout=10)
            reasons = httpx.get(f"{operations}/readyz").json()["reasons"]
            assert any("is not writable" in reason for reason in reasons)
            assert httpx.get(f"{shop.url}/readyz", verify=False).json() == {"ready": False}
        finally:
            hidden.rename(ledger)


def test_unit__passes_systemd(shop: Shop, tmp_path: Path) -> None:
    password = shop.enrolment.config.parent / "password"
    printed = shop.command("unit", f"--password-file={password}", "--user=root")
    assert printed.returncode == 0, printed.stderr
    for line in ("ProtectSystem=strict", "NoNewPrivileges=yes", "Restart=on-failure", "TimeoutStopSec=120"):
        assert f"\n{line}\n" in printed.stdout
    assert f"LoadCredential=keystore-password:{password}" in printed.stdout
    path = tmp_path / "clawmarket-provider.service"

    def verify(text: str) -> subprocess.CompletedProcess[str]:
        path.write_text(text)
        return subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)

    assert str(path) not in verify(printed.stdout).stderr
    assert "Unknown key" in verify(printed.stdout.replace("NoNewPrivileges", "NoNewPrivilegs")).stderr
    refused = shop.command("unit", f"--password-file={password}", "--user=a b; rm")
    assert (refused.returncode, "is no user name" in refused.stderr) == (1, True)
