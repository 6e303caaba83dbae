"""The client library, sync and async, against the real app."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from consumer.client import Answer, AsyncClient, Client, GatewayError, Usage
from consumer.gateway.events import Chunk, FailureClass, RouteFailed, Vectors
from tests.consumer.gateway.scripted import KEY, LEG, ROUTE, Served, served
from tests.consumer.gateway.test_app import HELLO, TO
from tests.support.waiting import until


@pytest.fixture
async def gateway() -> AsyncIterator[Served]:
    async with served() as found:
        found.dispatcher.script = HELLO
        yield found


@pytest.fixture
async def client(gateway: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"{gateway.url}/v1", KEY) as found:
        yield found


def check(answer: Answer) -> None:
    assert (answer.text, answer.model, answer.route, answer.cost) == ("Hello", ROUTE, ROUTE, "0.0012 USDC")
    assert (answer.usage, answer.finish_reason) == (Usage(5, 3), "stop")
    assert answer.message["content"] == "Hello"
    assert answer.legs[0]["route"] == ROUTE


async def test_async__ask_and_stream_give_the_same_answer(gateway: Served, client: AsyncClient) -> None:
    check(await client.ask("Hello?", max_tokens=3))
    async with client.stream("Hello?", max_tokens=3) as stream:
        with pytest.raises(GatewayError, match="not come to its end"):
            _ = stream.answer
        assert [text async for text in stream] == ["Hel", "lo"]
    check(stream.answer)
    for asked in gateway.dispatcher.asked:
        assert (asked.model, asked.content["max_tokens"]) == ("auto", 3)
        assert asked.content["messages"] == [{"role": "user", "content": "Hello?"}]


async def test_sync__does_the_same(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAWMARKET_URL", gateway.url)
    monkeypatch.setenv("CLAWMARKET_API_KEY", KEY)

    def use() -> dict[str, Any]:
        with Client() as client:
            check(client.ask([{"role": "user", "content": "Hello?"}]))
            with client.stream("Hello?") as stream:
                assert list(stream) == ["Hel", "lo"]
            check(stream.answer)
            with pytest.raises(GatewayError) as caught, client.stream("Hello?", model=""):
                pass
            assert caught.value.code == "invalid_type"
            return {"models": client.models(), **client.explain("Hello?", "model"), **client.status()}

    found = await asyncio.to_thread(use)
    assert found["models"] == ["model", "local/mine"]
    assert "requests" in found


async def test_embed_and_others(gateway: Served, client: AsyncClient) -> None:
    gateway.dispatcher.script = (TO, Vectors([{"object": "embedding", "index": 0, "embedding": [0.5]}]), LEG)
    assert await client.embed(["x"], "model") == [[0.5]]
    assert await client.models() == ["model", "local/mine"]
    assert (await client.explain("x", "model"))["routes"][0]["for"] == "model"
    assert (await client.status())["requests"]["running"] == 0


async def test_errors__say_what_the_gateway_says(gateway: Served, client: AsyncClient) -> None:
    failed = RouteFailed(FailureClass.MONEY, "too dear", status=402, code="insufficient_quota")
    gateway.dispatcher.script = (TO, failed)
    with pytest.raises(GatewayError, match="too dear") as caught:
        await client.ask("x")
    assert (caught.value.status, caught.value.code) == (402, "insufficient_quota")
    with pytest.raises(GatewayError, match="too dear"):
        async with client.stream("x"):
            pass
    gateway.dispatcher.script = (TO, Chunk([{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]), failed)
    async with client.stream("x") as stream:
        texts = aiter(stream)
        assert await anext(texts) == "a"
        with pytest.raises(GatewayError, match="too dear"):
            await anext(texts)


async def test_leaving_a_stream__cancels(gateway: Served, client: AsyncClient) -> None:
    gateway.dispatcher.script = (*HELLO[:-1], asyncio.Event())
    async with client.stream("x") as stream:
        assert await anext(aiter(stream)) == "Hel"
        assert not gateway.dispatcher.closed
    await until(lambda: gateway.dispatcher.closed)


async def test_nobody_there__says_so() -> None:
    async with AsyncClient("http://127.0.0.1:9") as client:
        with pytest.raises(GatewayError, match="is it running") as caught:
            await client.ask("x")
        assert caught.value.status == 0
