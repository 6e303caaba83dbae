"""Providers and applications whose messages have an odd form: another route answers, or the fault is told."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.consumer.gateway.market_gateway import Running, running
from tests.support.enlisted import enlist
from tests.support.http_connection import Connection, Headers
from tests.support.live_market import MESSAGES, MORE_PROVIDERS, LiveMarket, live_market
from tests.support.lying_provider import TEXT, LyingProvider
from tests.support.tiny_gguf import NAME

pytestmark = pytest.mark.asyncio(loop_scope="module")
Change = Callable[[bytes], bytes]


class Odd(LyingProvider):
    """Changes the bytes of its answers."""

    change: Change = staticmethod(lambda data: data)
    status = 200

    async def _paid(self, connection: Connection, path: str, headers: Headers, body: bytes) -> None:
        if self.status != 200:
            connection.answer(self.status, "{}")
            return
        send = connection.send
        connection.send = lambda data: send(self.change(data))  # type: ignore[method-assign]
        await super()._paid(connection, path, headers, body)


@dataclass
class Stage:
    """An odd provider, which is cheaper, an honest one, and the gateway."""

    odd: Odd
    found: Running

    async def ask(self, **more: Any) -> tuple[int, str]:
        self.found.gateway._breaker._states.clear()
        self.found.gateway._health._routes.clear()
        body = {"model": NAME, "messages": MESSAGES, "max_tokens": len(TEXT), "temperature": 0, **more}
        answer = await self.found.http.post("/v1/chat/completions", content=json.dumps(body))
        return answer.status_code, answer.text


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(market: LiveMarket, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    identities = [enlist(market, price_out=20), enlist(market, MORE_PROVIDERS[0], price_out=30)]
    async with (
        Odd(identities[0]) as odd,
        LyingProvider(identities[1]) as honest,
        running(market, tmp_path_factory.mktemp("gateway"), [odd.url, honest.url]) as found,
    ):
        yield Stage(odd, found)


def instead(old: str, new: str) -> Change:
    return lambda data: data.replace(old.encode(), new.encode())


CHANGES = {
    "index-text": instead('"index": 0', '"index": "0"'),
    "index-fraction": instead('"index": 0', '"index": 0.0'),
    "index-boolean": instead('"index": 0', '"index": false'),
    "logprobs-text": instead('"logprobs": null', '"logprobs": "x"'),
    "logprobs-list": instead('"logprobs": null', '"logprobs": [1]'),
    "logprobs-number": instead('"logprobs": null', '"logprobs": {"content": 5}'),
    "logprobs-nan": instead('"logprobs": null', '"logprobs": {"content": [{"logprob": NaN}]}'),
    "logprobs-infinite": instead('"logprobs": null', '"logprobs": {"content": [{"logprob": -1e999}]}'),
    "reason-number": instead('"finish_reason": "stop"', '"finish_reason": 5'),
    "calls-number": instead('"delta": {"content"', '"delta": {"tool_calls": 7, "content"'),
    "two-kinds": lambda data: data.replace(b'{"content": "T"', b'{"refusal": ["a"], "content": "T"').replace(
        b'{"content": "h"', b'{"refusal": "b", "content": "h"'
    ),
}


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_an_odd_chunk_costs_no_application_its_answer(stage: Stage, change: Change, is_stream: bool) -> None:
    stage.odd.change = change
    status, body = await stage.ask(stream=is_stream)
    assert status == 200
    if is_stream:
        chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
        entries = [entry for chunk in chunks for entry in chunk["choices"]]
        assert {type(entry["index"]) for entry in entries} == {int}
        assert "".join(entry["delta"].get("content") or "" for entry in entries) == TEXT
    else:
        assert json.loads(body)["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": 5},
        {"response_format": "json"},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"n": -1, "max_tokens": -5},
        {"n": 1e300},
    ],
    ids=["format-number", "format-text", "half-character", "negative", "huge"],
)
async def test_an_odd_request_is_its_applications_fault(stage: Stage, more: dict[str, Any]) -> None:
    stage.odd.change = Odd.change
    status, body = await stage.ask(**more)
    assert status == 400, body
    assert all("bad_output" not in health.outcomes for health in stage.found.gateway._health._routes.values())


async def test_a_name_of_any_length_takes_no_memory(stage: Stage) -> None:
    for _ in range(3):
        assert (await stage.ask(model="m" * 1_000_000))[0] == 404
    assert len((await stage.found.http.get("/gateway/status")).content) < 500_000


@pytest.mark.parametrize("status", [201, 301, 401, 600, 999])
async def test_an_odd_status_is_a_fault_of_its_provider(stage: Stage, status: int) -> None:
    stage.odd.status = status
    try:
        assert (await stage.ask())[0] == 200
        name = f"provider/{stage.odd.identity.provider}/{NAME}"
        assert (await stage.ask(model=name))[0] == 502
        assert stage.found.gateway._breaker.cooldown(name) is not None
    finally:
        stage.odd.status = 200
