"""Receipts of a real provider against the roots it anchored: proved, not due, missing, tampered with, out of reach."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from consumer.config import ConsumerConfig
from consumer.endpoints import Endpoint
from consumer.lease_client import End, Question
from consumer.offers import fetch_offer
from consumer.spending.auditing import DUE_S, Auditor, Finding, Verdict, requests_of
from consumer.spending.commands import app
from consumer.store import Store
from protocol import keystore
from protocol.headers import Signed
from protocol.typed_data import Receipt
from provider.config import load_config
from tests.consumer.spending.stall import Wanted, config_of, draft, running
from tests.support.anvil import wait_for
from tests.support.engine_slots import hold_engine_slots
from tests.support.live_market import ETHER, MESSAGES, PASSWORD, LiveMarket, WorkerProcess, live_market

pytestmark = pytest.mark.slow


@dataclass
class Bought:
    """What a gateway has after one answer that is anchored and one that is not, for want of gas."""

    market: LiveMarket
    config: ConsumerConfig
    provider_config: Path
    file: Path

    @property
    def records(self) -> Path:
        return self.config.data / "consumer.sqlite"

    def findings(self, later_s: int = 0) -> list[Finding]:
        """What the audit says, now or later."""
        store = Store(self.records, self.market.domain)
        try:
            now = self.market.client.head().timestamp + later_s
            return list(Auditor(self.market.client, self.market.domain, lambda: now).audit(requests_of(store)))
        finally:
            store.close()

    def verdicts(self, later_s: int = 0) -> list[Verdict]:
        return [finding.verdict for finding in self.findings(later_s)]

    @contextmanager
    def tampered(self, seq: int, **changes: int) -> Iterator[None]:
        """The final receipt of a request is another one, by the same provider if `changes` say so."""
        store = Store(self.records, self.market.domain)
        try:
            (record,) = store.leases()
            signed = store.final_receipt(record.lease_id, seq)
            assert signed is not None
            where = (record.lease_id, seq, signed.message.part)
            statement = "UPDATE receipts SET signed = ? WHERE lease_id = ? AND seq = ? AND part = ?"
            store._db.execute(statement, (self._changed(signed, **changes).encode(), *where))
        finally:
            store.close()
        yield
        store = Store(self.records, self.market.domain)
        store._db.execute(statement, (signed.encode(), *where))
        store.close()

    def _changed(self, signed: Signed[Receipt], cost: int, is_signed: int = 0) -> Signed[Receipt]:
        receipt = replace(signed.message, cost=cost)
        if not is_signed:
            return Signed(receipt, signed.signature)
        node = keystore.load(load_config(self.provider_config).provider.node_key, PASSWORD)
        return Signed(receipt, node.sign(self.market.domain, receipt))

    def command(self, name: str) -> Result:
        return CliRunner().invoke(app, [name, "--config", str(self.file)], env={"COLUMNS": "200"})


async def ask(config: ConsumerConfig, wanted: Wanted, *, leaves_open: bool = False) -> None:
    """One answer; or a request that is signed for and never sent."""
    async with running(config) as spending:
        client = await spending.keeper.client_for(wanted, 10_000)
        if leaves_open:
            await client.book.authorise(draft(100))
            return
        events = [event async for event in client.ask(Question(MESSAGES, max_tokens=20, temperature=0))]
        assert isinstance(events[-1], End)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found, hold_engine_slots(1):
        yield found


@pytest.fixture(scope="module")
def worker_and_bought(
    market: LiveMarket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[WorkerProcess, Bought]]:
    enrolment = market.enrol(tmp_path_factory.mktemp("provider"))
    market.node.set_balance(enrolment.operator, ETHER)
    folder = tmp_path_factory.mktemp("consumer")
    config = config_of(market, folder)
    file = folder / "consumer.toml"
    file.write_text(
        f'rpc = ["{market.node.url}"]\ndeployment = "{market.deployment_file}"\n'
        f'tokenizers = ["{config.tokenizers[0]}"]\n'
    )
    bought = Bought(market, config, enrolment.config, file)
    with WorkerProcess(enrolment.config) as worker:
        place = Endpoint(worker.wait_ready())
        wanted = Wanted(fetch_offer(market.client, place, enrolment.provider, enrolment.offer_id), place)
        asyncio.run(ask(config, wanted))
        wait_for(lambda: bought.verdicts() == [Verdict.PROVED])
        market.node.set_balance(enrolment.operator, 0)
        asyncio.run(ask(config, wanted))
        asyncio.run(ask(config, wanted, leaves_open=True))
        yield worker, bought


@pytest.fixture
def bought(worker_and_bought: tuple[WorkerProcess, Bought]) -> Bought:
    return worker_and_bought[1]


def test_anchored_receipts_are_proved_and_young_ones_are_not_due(bought: Bought) -> None:
    first, second, third = bought.findings()
    assert (first.verdict, first.reason) == (Verdict.PROVED, "place 0 of 1")
    assert second.verdict is Verdict.NOT_DUE
    assert "not_anchored" in second.reason
    assert third.verdict is Verdict.UNFINISHED
    assert bought.command("audit").exit_code == 0


def test_a_receipt_that_is_due_and_not_anchored_is_missing(bought: Bought) -> None:
    assert bought.verdicts(DUE_S + 60) == [Verdict.PROVED, Verdict.MISSING, Verdict.UNFINISHED]


def test_a_receipt_changed_here_is_by_nobody(bought: Bought) -> None:
    with bought.tampered(0, cost=1):
        finding = bought.findings()[0]
        assert finding.verdict is Verdict.CONTRADICTED
        assert "no node key of the provider signed" in finding.reason
        result = bought.command("audit")
        assert result.exit_code == 1
        assert "contradicted: request 0" in result.output
        assert "3 requests: 1 contradicted, 1 no end yet, 1 not due yet" in result.output
    assert bought.command("audit").exit_code == 0


def test_a_receipt_that_the_provider_signed_and_did_not_anchor_is_contradicted(bought: Bought) -> None:
    with bought.tampered(0, cost=1, is_signed=1):
        finding = bought.findings()[0]
        assert finding.verdict is Verdict.CONTRADICTED
        assert "the proof leads to another root" in finding.reason


def test_receipts_and_budget_are_shown(bought: Bought) -> None:
    shown = bought.command("receipts")
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["settled", "settled", "signed"]
    budget = bought.command("budget")
    assert budget.exit_code == 0
    store = Store(bought.records, bought.market.domain)
    spent = sum(entry.owed + entry.promised for entry in store.spending())
    store.close()
    assert 0 < spent < 10**6
    assert f"{spent / 10**6:.6f}".rstrip("0") in budget.output


def test_a_provider_out_of_reach_proves_nothing(worker_and_bought: tuple[WorkerProcess, Bought]) -> None:
    worker, bought = worker_and_bought
    assert worker.stop() == 0
    assert bought.verdicts() == [Verdict.NOT_DUE, Verdict.NOT_DUE, Verdict.UNFINISHED]
    assert bought.verdicts(DUE_S + 60) == [Verdict.UNREACHABLE, Verdict.UNREACHABLE, Verdict.UNFINISHED]
    bought.market.node.time_travel(DUE_S + 60)
    assert bought.command("audit").exit_code == 1
