"""Signals to a real worker: the first lets running answers end and be paid, the second stops at once."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from consumer.store import Store
from provider.enrolment import Enrolment
from provider.ledger import Ledger
from tests.consumer.buyer import PROMPT
from tests.support.engine_slots import hold_engine_slots
from tests.support.live_market import ETHER, LiveMarket, WorkerProcess, live_market
from tests.support.raw_gateway import Prepared, RawGateway, Received, chat_body, prepare, refusal_code, sign

TOKENS = 40
CREDIT = PROMPT * 10 + 8 * 30
COST = PROMPT * 10 + TOKENS * 30
LONG_S = 600
"""No answer here ends by itself while it waits for its voucher."""


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture(scope="module")
def enrolment(market: LiveMarket) -> Enrolment:
    found = market.enrol(
        market.folder / "provider", credit_stranger=CREDIT, credit_growth_bps=0, voucher_timeout_s=LONG_S
    )
    with found.config.open("a") as file:
        file.write(f"[host]\ndrain_s = {LONG_S}\n")
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


class Asking:
    """A lease whose answers stop at the credit cap until they are paid."""

    def __init__(self, market: LiveMarket, enrolment: Enrolment, worker: WorkerProcess, store: Store) -> None:
        self.worker = worker
        self.endpoint = worker.wait_ready()
        record, self.session = market.open_lease(store, self.endpoint, enrolment)
        self.lease_id = record.lease_id
        self._market = market

    def prepared(self, seq: int) -> Prepared:
        return prepare(
            self.lease_id,
            seq=seq,
            body=chat_body(max_tokens=TOKENS),
            max_cost=COST,
            sent_at=self._market.node.timestamp(),
            signer=self.session,
            domain=self._market.domain,
        )

    async def pay(self, gateway: RawGateway, cumulative: int) -> None:
        paid = await gateway.pay(sign(self.lease_id, cumulative, signer=self.session, domain=self._market.domain))
        assert paid.status_code == httpx.codes.NO_CONTENT

    async def stop_waiting_for_money(self, lines: AsyncIterator[str], received: Received) -> None:
        """Reads until the worker waits for a voucher, then sends SIGTERM and waits until it takes no more."""
        async for _ in lines:
            if received.exposures:
                break
        self.worker.process.send_signal(signal.SIGTERM)
        async with RawGateway(self.endpoint) as other:
            while (await other.http.get("/readyz")).status_code == httpx.codes.OK:  # noqa: ASYNC110 - its own time
                await asyncio.sleep(0.05)
            refused = await other.post(self.prepared(1))
            assert (refused.status_code, refusal_code(refused)) == (503, "busy")


def final_cost(market: LiveMarket, enrolment: Enrolment, lease_id: bytes) -> int | None:
    """What the ledger's final receipt of the first request says, once there is one; the others were never admitted."""
    folder = enrolment.config.parent / "data"
    ledger = Ledger(folder / "ledger.sqlite", market.domain, enrolment.provider)
    try:
        ledger.check()
        assert ledger.unfinished() == []
        assert ledger.request(lease_id, 1) is None
        final = ledger.final_receipt(lease_id, 0)
        return None if final is None else final.message.cost
    finally:
        ledger.close()


def test_the_first_signal_lets_running_answers_end_paid(market: LiveMarket, enrolment: Enrolment, store: Store) -> None:
    with WorkerProcess(enrolment.config) as worker:
        asking, received = Asking(market, enrolment, worker, store), Received()

        async def work() -> None:
            async with RawGateway(asking.endpoint) as gateway, RawGateway(asking.endpoint) as paying:
                gateway.http.timeout = httpx.Timeout(60)
                async with aclosing(gateway.lines(asking.prepared(0), received)) as lines:
                    await asking.stop_waiting_for_money(lines, received)
                    assert not received.done
                    assert worker.process.poll() is None
                    await asking.pay(paying, COST)
                    async for _ in lines:
                        pass

        asyncio.run(work())
        assert worker.wait_end() == 0
        assert received.done
        assert (received.final.units_out, received.final.cost) == (TOKENS, COST)
        assert "Traceback" not in worker.output
    assert final_cost(market, enrolment, asking.lease_id) == COST


def test_the_second_signal_stops_at_once(market: LiveMarket, enrolment: Enrolment, store: Store) -> None:
    """The answer would have waited for its voucher for minutes; it ends with its final receipt all the same."""
    with WorkerProcess(enrolment.config) as worker:
        asking, received = Asking(market, enrolment, worker, store), Received()

        async def work() -> None:
            async with RawGateway(asking.endpoint) as gateway:
                gateway.http.timeout = httpx.Timeout(60)
                async with aclosing(gateway.lines(asking.prepared(0), received)) as lines:
                    await asking.stop_waiting_for_money(lines, received)
                    assert worker.process.poll() is None
                    worker.process.send_signal(signal.SIGTERM)
                    assert await asyncio.to_thread(worker.wait_end) == 0

        asyncio.run(work())
        assert not received.done
        assert "Traceback" not in worker.output
    cost = final_cost(market, enrolment, asking.lease_id)
    assert cost is not None
    assert 0 < cost <= CREDIT


def test_a_worker_without_work_ends_at_the_first_signal(enrolment: Enrolment) -> None:
    with WorkerProcess(enrolment.config) as worker:
        worker.wait_ready()
        assert worker.stop() == 0
        assert "Traceback" not in worker.output
