"""A gateway, two real providers and a real chain: answers, what they cost, and what happens when one dies."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from protocol import keystore
from tests.consumer.gateway.market_gateway import Running, running
from tests.support.live_market import (
    ETHER,
    MORE_PROVIDERS,
    PASSWORD,
    SCRYPT_N,
    LiveMarket,
    WorkerProcess,
    live_market,
    signer_of,
)
from tests.support.tiny_gguf import NAME

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOKENS = 50
PROMPT = 24
MESSAGES = [{"role": "user", "content": "hello"}]


@dataclass
class Stage:
    """The chain and two providers of one model."""

    market: LiveMarket
    workers: list[WorkerProcess]
    urls: list[str]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        market = stack.enter_context(live_market(tmp_path_factory.mktemp("market")))
        workers = []
        for number, owner in enumerate((1, MORE_PROVIDERS[0])):
            folder = tmp_path_factory.mktemp(f"provider-{number}")
            keystore.save(folder / "owner.json", signer_of(owner), PASSWORD, scrypt_n=SCRYPT_N)
            enrolment = market.enrol(folder)
            with market.sender("funds", 0) as sender:
                sender.execute(f"operator-{number}", enrolment.operator, value=ETHER, timeout=30)
            workers.append(stack.enter_context(WorkerProcess(enrolment.config)))
        yield Stage(market, workers, [worker.wait_ready() for worker in workers])


@pytest.mark.slow
async def test_an_answer_is_paid_and_says_what_it_cost(stage: Stage, tmp_path: Path) -> None:
    async with running(stage.market, tmp_path, stage.urls) as found:
        response = await found.http.post(
            "/v1/chat/completions",
            json={"model": NAME, "messages": MESSAGES, "max_tokens": 12, "temperature": 0},
        )
        assert response.status_code == 200, response.text
        print(response.text, dict(response.headers))
        print(found.gateway.status())


class CutProxy:
    """Stands before a provider and breaks off after the `cut`-th token line of an answer, once; 0 for never."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.cut = 0
        self.seen = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Ends all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks |= {task for task in (asyncio.current_task(),) if task}
        sending, back = None, None
        try:
            there, back = await asyncio.open_connection(self.target.hostname, self.target.port)
            sending = asyncio.create_task(self._forward(reader, back))
            self._tasks.add(sending)
            while line := await there.readline():
                writer.write(line)
                await writer.drain()
                if line.startswith(b": clawmarket token"):
                    self.seen += 1
                    if self.seen == self.cut:
                        break
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            if back and sending:
                sending.cancel()
                back.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()


async def stream(found: Running, model: str, **more: Any) -> tuple[str, str, dict[str, Any]]:
    """A streamed answer's text, its finish reason, and what its last comment says."""
    body = {"model": model, "messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0, "stream": True, **more}
    text, reason, comment = "", "", {}
    async with found.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith(": clawmarket "):
                comment = json.loads(line.removeprefix(": clawmarket "))
            elif line.startswith("data: {"):
                content = json.loads(line.removeprefix("data: "))
                assert "error" not in content, content
                for choice in content["choices"]:
                    text += choice["delta"].get("content") or ""
                    reason = choice["finish_reason"] or reason
    return text, reason, comment


def forget(found: Running) -> None:
    """What was measured and cools down: every provider is as good as new."""
    found.gateway._breaker._states.clear()
    found.gateway._health._routes.clear()


@pytest.mark.slow
async def test_a_stream_cut_at_any_point_is_finished_by_another(stage: Stage, tmp_path: Path) -> None:
    """50 points: no token is repeated or lost, and each provider is paid for what it gave."""
    proxy = CutProxy(stage.urls[0])
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with running(stage.market, tmp_path, [url, stage.urls[1]]) as found:
            whole, reason, _ = await stream(found, f"provider/2/{NAME}")
            assert reason == "length"
            for cut in range(1, TOKENS + 1):
                proxy.cut, proxy.seen = cut, 0
                forget(found)
                text, reason, comment = await stream(found, NAME)
                legs = comment["legs"]
                assert (text, reason) == (whole, "length"), f"cut at {cut}"
                assert proxy.seen == cut
                assert [leg["route"] for leg in legs] == [f"provider/1/{NAME}", f"provider/2/{NAME}"]
                assert legs[1]["completion_tokens"] + cut >= TOKENS
                assert legs[1]["prompt_tokens"] == PROMPT + TOKENS - legs[1]["completion_tokens"]
        await proxy.close()
