"""kill -9 of the worker wherever something must happen in order, under clients that go on and a chain that runs.

After every run the ledger is judged from outside: by what the clients hold and what the chain has.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from protocol.headers import Signed, parse_response_headers
from protocol.typed_data import Receipt
from tests.support.anvil import wait_for
from tests.support.chain_provider import SESSION
from tests.support.crashing_worker import POINTS, ShortLife
from tests.support.engine_slots import hold_engine_slots
from tests.support.ledger_oracle import Evidence, judge
from tests.support.live_market import LiveMarket, WorkerProcess, live_market
from tests.support.raw_gateway import Prepared, RawGateway, Received, chat_body, prepare, sign
from tests.support.shop import Shop, open_shop

CLIENTS = 3
DEPOSIT = 12_000_000
MAX_COST = 20_000
REACHED_S = 60.0
CI_KILLS, SOAK_KILLS = 15, 200
SEED = 20


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with live_market(tmp_path) as market:
        found = open_shop(market, tmp_path / "provider", credit_stranger=200_000)
        text = found.enrolment.config.read_text()
        found.enrolment.config.write_text(text.replace("tick_s = 0.5", "tick_s = 0.2"))
        with hold_engine_slots(1):
            yield found


@dataclass
class Place:
    """Where the worker is reached at the moment."""

    url: str = "http://127.0.0.1:1"


@dataclass
class Client:
    """Asks one question after another under one lease, and each until it has its final receipt."""

    market: LiveMarket
    place: Place
    lease_id: bytes
    evidence: Evidence
    cumulative: int = 0
    asked: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while not self.stopping.is_set():
            receipt = await self._until_final(self._prepared())
            self.evidence.finals[self.lease_id, self.asked] = receipt.cost
            self.asked += 1
            self.cumulative += receipt.cost
            await self._pay()
            await asyncio.sleep(0.05)

    def _prepared(self) -> Prepared:
        return prepare(
            self.lease_id,
            seq=self.asked,
            cumulative=self.cumulative,
            max_cost=MAX_COST,
            body=chat_body(f"question {self.asked}"),
            sent_at=self.market.node.timestamp(),
            signer=SESSION,
            domain=self.market.domain,
        )

    async def _until_final(self, prepared: Prepared) -> Receipt:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                async with RawGateway(self.place.url) as gateway:
                    receipt = await self._attempt(gateway, prepared)
                if receipt is not None:
                    return receipt
            await asyncio.sleep(0.1)

    async def _attempt(self, gateway: RawGateway, prepared: Prepared) -> Receipt | None:
        """The final receipt, if it comes."""
        received = Received()
        async with gateway.http.stream(
            "POST", "/v1/chat/completions", content=prepared.body, headers=prepared.headers()
        ) as response:
            if response.status_code == httpx.codes.OK:
                async for line in response.aiter_lines():
                    known = len(received.receipts)
                    received.feed(line)
                    self._keep(received.receipts[known:])
            else:
                text = await response.aread()
                repeated = parse_response_headers(response.headers.items()).receipt
                assert response.status_code in (httpx.codes.CONFLICT, httpx.codes.SERVICE_UNAVAILABLE), text
                received.receipts = [repeated] if repeated else []
                self._keep(received.receipts)
        finals = [signed.message for signed in received.receipts if signed.message.final]
        return finals[0] if finals else None

    def _keep(self, receipts: list[Signed[Receipt]]) -> None:
        self.evidence.receipts += [signed.encode() for signed in receipts]

    async def _pay(self) -> None:
        voucher = sign(self.lease_id, self.cumulative, signer=SESSION, domain=self.market.domain)
        while True:
            with contextlib.suppress(httpx.HTTPError):
                async with RawGateway(self.place.url) as gateway:
                    response = await gateway.pay(voucher)
                if response.is_success:
                    self.evidence.paid[self.lease_id] = self.cumulative
                    return
                assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE, response.text
            await asyncio.sleep(0.1)


@asynccontextmanager
async def clients(shop: Shop, place: Place, evidence: Evidence) -> AsyncIterator[list[Client]]:
    """Running until the block ends; what they assert fails the test."""
    found = [Client(shop.market, place, shop.open_lease(DEPOSIT), evidence) for _ in range(CLIENTS)]
    tasks = [asyncio.create_task(client.run()) for client in found]
    try:
        yield found
        for client in found:
            client.stopping.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
    finally:
        for task in tasks:
            task.cancel()


def killed_at(shop: Shop, place: Place, point: str, times: int) -> None:
    """One life of the worker. Raises AssertionError unless it ends at the point."""
    life = ShortLife(shop.enrolment.config, point, times)
    deadline = time.monotonic() + REACHED_S
    try:
        while life.exit_code is None:
            assert time.monotonic() < deadline, f"{point} is never passed: {life.output}"
            place.url = life.address or place.url
            time.sleep(0.02)
        assert life.exit_code == -signal.SIGKILL, life.output
    finally:
        life.kill()


def schedule(kills: int, seed: int) -> list[tuple[str, int]]:
    """Points in random order, none again before all were chosen, and how often each is passed before the kill."""
    chosen = random.Random(seed)
    points: list[str] = []
    while len(points) < kills:
        points += chosen.sample(POINTS, len(POINTS))
    return [(point, chosen.randint(1, 3)) for point in points[:kills]]


async def survive(shop: Shop, kills: list[tuple[str, int]]) -> int:
    """Kills the worker so, lets the last one finish, and judges; returns the number of final receipts."""
    client = shop.market.client
    place, evidence = Place(), Evidence(shop.market.domain)
    first = shop.market.node.block_number()
    async with clients(shop, place, evidence) as asking:
        for point, times in kills:
            await asyncio.to_thread(killed_at, shop, place, point, times)
        worker = WorkerProcess(shop.enrolment.config)
        place.url = await asyncio.to_thread(worker.wait_ready)
    ends = {found.lease_id: found.cumulative for found in asking}

    def is_settled() -> bool:
        return all(client.lease(lease_id).settled == owed for lease_id, owed in ends.items())

    await asyncio.to_thread(lambda: wait_for(is_settled, timeout=60))
    await asyncio.to_thread(lambda: wait_for(lambda: is_anchored(shop), timeout=60, interval=0.2))
    assert await asyncio.to_thread(worker.stop) == 0
    evidence.settled = {lease_id: client.lease(lease_id).settled for lease_id in ends}
    evidence.anchors = [
        (event.args["count"], event.args["root"])
        for event in client.events(first + 1, shop.market.node.block_number())
        if event.name == "Anchored"
    ]
    assert evidence.settled == evidence.paid == ends
    path = shop.config.provider.data / "ledger.sqlite"
    finals = judge(path, evidence)
    assert finals == sum(found.asked for found in asking)
    assert evidence.anchors[-1][0] == finals
    with closing(shop.ledger()) as ledger:
        ledger.check()
    return finals


def is_anchored(shop: Shop) -> bool:
    """Whether all that was served is under the chain's anchor."""
    with closing(shop.ledger()) as ledger:
        last = ledger.last_anchor(confirmed=True)
        return last is not None and last.signed.message.count == ledger.count


async def test_killed_anywhere_nothing_is_lost_or_said_twice(shop: Shop) -> None:
    assert await survive(shop, schedule(CI_KILLS, SEED)) >= CLIENTS


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_killed_everywhere_many_times(shop: Shop) -> None:
    kills = schedule(SOAK_KILLS, random.SystemRandom().randrange(1 << 32))
    print(kills)
    assert await survive(shop, kills) >= CLIENTS
