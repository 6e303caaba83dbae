"""kill -9 of whole processes under load: of a provider, whose answers another one finishes, and of the gateway itself.

After every death of the gateway its records are read by plain SQL and held against what the providers received.
"""

import asyncio
import contextlib
import json
import random
import re
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumer.config import ConsumerConfig
from consumer.spending.offline import open_keys
from protocol import keystore
from protocol.headers import parse_request, parse_voucher
from tests.consumer.gateway.market_gateway import Running, running, write_config
from tests.support.anvil import wait_for
from tests.support.enlisted import enlist
from tests.support.lies import Lies
from tests.support.live_market import (
    ETHER,
    MESSAGES,
    MORE_PROVIDERS,
    PASSWORD,
    SCRYPT_N,
    LiveMarket,
    WorkerProcess,
    live_market,
    signer_of,
)
from tests.support.lying_provider import LyingProvider
from tests.support.tiny_gguf import NAME
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOKENS = 24
"""Fewer than are paid unseen: a broken answer is paid whole."""
CLIENTS = 6
SEED = 7
DEATHS = 4


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


class GatewayProcess:
    """`clawmarket gateway run`, again and again on the same folder."""

    def __init__(self, market: LiveMarket, folder: Path, providers: list[str]) -> None:
        self.config = write_config(market, folder, providers, "[gateway]\nport = 0\n")
        loaded = ConsumerConfig.load(self.config)
        loaded.data.mkdir(exist_ok=True)
        _, self.key = open_keys(loaded).make("test")
        (folder / "password").write_text(PASSWORD.reveal())
        self.records = loaded.data / "consumer.sqlite"

    @contextlib.contextmanager
    def run(self) -> Iterator[tuple[WorkerProcess, httpx.AsyncClient]]:
        """One run, and a client of it."""
        with WorkerProcess(self.config, extra=("gateway", "run")) as process:
            found = wait_for(lambda: re.search(r"serves on (http://127\.0\.0\.1:\d+)/v1\n", process.output), timeout=60)
            headers = {"Authorization": f"Bearer {self.key}"}
            yield process, httpx.AsyncClient(base_url=found[1], headers=headers, timeout=60)


async def ask_on(http: httpx.AsyncClient) -> None:
    """Asks until the gateway is gone."""
    body = {"model": NAME, "messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0, "stream": True}
    with contextlib.suppress(httpx.HTTPError):
        while True:
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                assert response.status_code == 200, await response.aread()
                async for _ in response.aiter_bytes():
                    pass


@dataclass
class Replay:
    """What the gateway's records say, read without its code."""

    vouchers: dict[bytes, list[str]]
    requests: dict[tuple[bytes, int], tuple[str, str, str, int, int]]

    @classmethod
    def of(cls, path: Path) -> "Replay":
        """Context, voucher, state, most and owed of every request."""
        with contextlib.closing(sqlite3.connect(path)) as db:
            vouchers: dict[bytes, list[str]] = defaultdict(list)
            for lease_id, signed in db.execute("SELECT lease_id, signed FROM vouchers ORDER BY number"):
                vouchers[lease_id].append(signed)
            rows = db.execute("SELECT lease_id, seq, context, voucher, state, max_cost, owed FROM requests")
            requests = {(row[0], row[1]): (row[2], row[3], row[4], int(row[5]), int(row[6])) for row in rows}
        return cls(vouchers, requests)

    def check(self, providers: list[LyingProvider]) -> None:
        """Nothing left that is not here, and nothing was signed twice in different ways."""
        here = {signed for signed_ones in self.vouchers.values() for signed in signed_ones}
        for provider in providers:
            sent = [seen.voucher for seen in provider.seen] + provider.vouchers
            assert {voucher.encode() for voucher in sent} <= here
            for seen in provider.seen:
                context = self.requests[seen.voucher.message.lease_id, seen.context.seq][0]
                assert parse_request(context) == seen.context
        by_context = defaultdict(set)
        for lease, signed_ones in self.vouchers.items():
            amounts = [parse_voucher(signed).message.cumulative for signed in signed_ones]
            assert amounts == sorted(amounts)
            for signed in signed_ones:
                if any(digest := parse_voucher(signed).message.context):
                    by_context[lease, digest].add(signed)
        assert all(len(found) == 1 for found in by_context.values())

    @property
    def promised(self) -> int:
        """What is signed for or may still have to be."""
        owed = sum(owed for *_, owed in self.requests.values())
        opened = [row for row in self.requests.values() if row[2] in ("signed", "admitted")]
        return owed + sum(max(0, most - owed) for *_, most, owed in opened)

    @property
    def signed(self) -> int:
        """The highest voucher of each lease."""
        return sum(parse_voucher(found[-1]).message.cumulative for found in self.vouchers.values())


@pytest.mark.slow
async def test_gateway__no_voucher_is_lost_or_signed_anew_and_budgets_cover_all(
    market: LiveMarket, tmp_path: Path
) -> None:
    random_moments = random.Random(SEED)
    async with (
        LyingProvider(enlist(market, price_in=10, price_out=20), Lies(token_s=0.001)) as first,
        LyingProvider(enlist(market, MORE_PROVIDERS[0], price_in=10, price_out=25), Lies(token_s=0.001)) as second,
    ):
        providers = [first, second]
        gateway = await asyncio.to_thread(GatewayProcess, market, tmp_path, [each.url for each in providers])
        for _ in range(DEATHS):
            running = gateway.run()
            process, http = await asyncio.to_thread(running.__enter__)
            if gateway.records.exists() and first.seen:
                await _check_budget(http, Replay.of(gateway.records))
            target = _events(providers) + random_moments.randrange(20, 120)
            asking = [asyncio.create_task(ask_on(http)) for _ in range(CLIENTS)]
            await until(lambda target=target: _events(providers) >= target, timeout_s=60)  # type: ignore[misc]
            await asyncio.to_thread(process.kill)
            await asyncio.gather(*asking)
            await http.aclose()
            await asyncio.to_thread(running.__exit__, None, None, None)
            await until(lambda: all(seen.has_ended for each in providers for seen in each.seen))
            Replay.of(gateway.records).check(providers)
        finals = sum(seen.receipts[-1].message.cost for each in providers for seen in each.seen)
        unseen = len(Replay.of(gateway.records).requests) - sum(len(each.seen) for each in providers)
        market.node.time_travel(150)
        with contextlib.ExitStack() as stack:
            process, http = await asyncio.to_thread(stack.enter_context, gateway.run())
            replay = Replay.of(gateway.records)
            assert not [row for row in replay.requests.values() if row[2] in ("signed", "admitted")]
            assert sum(owed for *_, owed in replay.requests.values()) == finals
            assert replay.signed == finals
            spent, held = await _spent(http)
            assert spent >= finals  # what was promised at the start counts for the whole day
            assert held == 0
            assert 0 <= unseen <= DEATHS * CLIENTS
            await http.aclose()
            assert await asyncio.to_thread(process.stop) == 0


def _events(providers: list[LyingProvider]) -> int:
    return sum(len(each.seen) + len(each.vouchers) for each in providers)


async def _spent(http: httpx.AsyncClient) -> tuple[int, int]:
    status: dict[str, Any] = (await http.get("/gateway/status")).json()
    day = next(each for each in status["budgets"] if each["scope"] == "all")
    return day["spent"], day["held"]


async def _check_budget(http: httpx.AsyncClient, replay: Replay) -> None:
    spent, held = await _spent(http)
    assert spent + held >= replay.promised
    assert spent + held >= replay.signed


class KillingProxy:
    """Before a provider: after the `cut`-th token line of an answer it calls `kill`, and what follows is lost."""

    def __init__(self, port: int, kill: Callable[[], None]) -> None:
        self.port = port
        self.kill = kill
        self.cut = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Ends what it forwards."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        sending = asyncio.create_task(_forward(reader, back))
        self._tasks |= {sending, *(task for task in (asyncio.current_task(),) if task)}
        seen = 0
        try:
            while line := await there.readline():
                writer.write(line)
                await writer.drain()
                seen += line.startswith(b": clawmarket token")
                if seen and seen == self.cut:
                    self.cut = 0
                    await asyncio.to_thread(self.kill)
                    break
        except ConnectionError:
            pass
        finally:
            sending.cancel()
            writer.transport.abort()
            back.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


LONG = 50


class Worker:
    """A real provider of the tiny model on a port of its own, which can be killed and started again."""

    def __init__(self, market: LiveMarket, folder: Path, owner: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        folder.mkdir()
        keystore.save(folder / "owner.json", signer_of(owner), PASSWORD, scrypt_n=SCRYPT_N)
        enrolment = market.enrol(folder, port=self.port)
        with market.sender("funds", 0) as sender:
            sender.execute(f"operator-{owner}", enrolment.operator, value=ETHER, timeout=30)
        self.provider = enrolment.provider
        self._config = enrolment.config

    def start(self) -> None:
        """Until it answers."""
        self.process = WorkerProcess(self._config)
        self.process.wait_ready()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def stop(self) -> None:
        """If it runs."""
        if self.process.process.poll() is None:
            self.process.stop()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[LiveMarket, list[Worker]]]:
    with live_market(tmp_path / "market") as market:
        found = [Worker(market, tmp_path / str(owner), owner) for owner in (1, MORE_PROVIDERS[0])]
        for worker in found:
            worker.start()
        yield market, found
        for worker in found:
            worker.stop()


async def answer(found: Running, model: str) -> tuple[str, list[str]]:
    """A streamed answer, and which routes gave it."""
    body = {"model": model, "messages": MESSAGES, "max_tokens": LONG, "temperature": 0, "stream": True}
    text, legs = "", []
    async with found.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith(": clawmarket {"):
                legs = json.loads(line.removeprefix(": clawmarket ")).get("legs", [])
            elif line.startswith("data: {"):
                content = json.loads(line.removeprefix("data: "))
                assert "error" not in content, content
                text += "".join(choice["delta"].get("content") or "" for choice in content["choices"])
    return text, [leg["route"] for leg in legs]


def forget(found: Running) -> None:
    """Everybody is as good as new."""
    found.gateway._breaker._states.clear()
    found.gateway._health._routes.clear()


@pytest.mark.slow
async def test_worker__another_finishes_and_the_broken_part_is_paid_once_it_is_back(
    workers: tuple[LiveMarket, list[Worker]], tmp_path: Path
) -> None:
    """Also: a gateway whose clock is an hour off is told so, and nobody is blamed for it."""
    market, (first, second) = workers
    proxy = KillingProxy(first.port, first.kill)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", f"http://127.0.0.1:{second.port}"]
    routes = [f"provider/{worker.provider}/{NAME}" for worker in (first, second)]
    async with server, running(market, tmp_path / "gateway", urls) as found:
        keeper, store = found.gateway._spending.keeper, found.session.store
        whole, _ = await answer(found, routes[1])
        for cut in random.Random(SEED).sample(range(1, LONG), 3):
            proxy.cut = cut
            forget(found)
            assert await answer(found, NAME) == (whole, routes)
            await asyncio.to_thread(first.start)
            for kept in keeper._kept.values():
                await until(lambda kept=kept: not kept.client._tasks)  # type: ignore[misc]
            await keeper.look_after()
            for kept in keeper._kept.values():
                await until(lambda kept=kept: not kept.client._tasks)  # type: ignore[misc]
        for lease in store.leases():
            highest = store.highest_voucher(lease.lease_id)
            assert highest is not None
            assert not store.unfinished(lease.lease_id)
            assert highest.message.cumulative == store.owed(lease.lease_id)

        forget(found)
        clock = found.gateway._spending.clock
        clock._own = lambda: time.time() + 3_600
        asked = {"model": NAME, "messages": MESSAGES, "max_tokens": 4}
        refused = await found.http.post("/v1/chat/completions", json=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "clock")
        assert all(each["trust"] == 1 for each in found.gateway.status()["routes"].values())
        clock._own = time.time
        forget(found)
        assert (await answer(found, NAME))[0] == whole
        await proxy.close()
