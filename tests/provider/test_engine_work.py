"""How the engine shares its slots, threads and time; embeddings; engines that hang. On the tiny model."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio

from provider.backend import GenerationRequest, Prompt
from provider.engine import waiting
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.errors import EngineCrashed, GenerationError
from provider.engine.memory import estimate_bytes
from provider.engine.request import Request
from provider.engine.threads import NICENESS, usable
from provider.engine.waiting import WaitingRequests
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.generating import ask, collect, ids, run
from tests.support.tiny_gguf import CHAT_TEMPLATE, CONTEXT, FIRST_BYTE_TOKEN, VOCABULARY, write_tiny_gguf
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 2.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine() -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineSettings(tiny_model(), threads=64, parallel=1, hang_s=HANG_S), BareHost())
    with hold_engine_slots(1):
        await client.start()
        yield client
        await client.stop()


def request(number: int, key: str) -> Request:
    return Request(number, [1], 1, 0.0, 1.0, 0, [], key)


async def test_keys_take_turns() -> None:
    queue = WaitingRequests()
    for number in range(50):
        queue.add(request(number, "greedy"))
    queue.add(request(100, "modest"))
    queue.add(request(101, "modest"))
    queue.add(request(102, "third"))
    order = [taken.id for _ in range(6) if (taken := queue.take())]
    assert order == [0, 100, 102, 1, 101, 2]


async def test_a_long_queue_delays_no_other_key(engine: EngineClient) -> None:
    ended: list[str] = []

    async def one(key: str) -> None:
        await run(engine, "fair", 8, cache_key=key)
        ended.append(key)

    crowd = [asyncio.create_task(one("crowd")) for _ in range(50)]
    await asyncio.sleep(0)
    await one("single")
    assert len(ended) < 25
    await asyncio.gather(*crowd)
    assert len(ended) == 51


async def test_queues_are_bounded() -> None:
    queue = WaitingRequests()
    for number in range(waiting.MAX_WAITING_OF_KEY):
        queue.add(request(number, "a"))
    with pytest.raises(GenerationError) as failure:
        queue.add(request(1_000, "a"))
    assert failure.value.code == "overloaded"
    for number in range(waiting.MAX_WAITING - waiting.MAX_WAITING_OF_KEY):
        queue.add(request(2_000 + number, str(number)))
    with pytest.raises(GenerationError):
        queue.add(request(1_000, "new"))
    queue.remove(0)
    queue.add(request(1_000, "new"))


async def test_too_many_requests_are_refused_and_the_others_served(engine: EngineClient) -> None:
    async def outcome() -> str:
        try:
            await run(engine, "crowd", 1, cache_key="crowd")
        except GenerationError as error:
            return error.code
        return "served"

    outcomes = await asyncio.gather(*[outcome() for _ in range(waiting.MAX_WAITING_OF_KEY * 3)])
    assert set(outcomes) == {"served", "overloaded"}
    assert outcomes.count("served") >= waiting.MAX_WAITING_OF_KEY


async def test_a_paused_request_that_waits_stays_behind(engine: EngineClient) -> None:
    first = await engine.generate(GenerationRequest(Prompt(ask("first")), 60, temperature=0.0))
    held = await engine.generate(GenerationRequest(Prompt(ask("held")), 5, temperature=0.0))
    await held.pause()
    task = asyncio.create_task(collect(held))
    await collect(first)
    for _ in range(3):
        assert len((await run(engine, "later", 20))[0]) == 20
    assert not task.done()
    await held.resume()
    assert len((await task)[0]) == 5


async def test_threads_are_those_of_the_cores(engine: EngineClient) -> None:
    """64 are asked for. One more thread reads from the host, and sleeps."""
    assert engine.pid is not None
    process = psutil.Process(engine.pid)
    cores = len(os.sched_getaffinity(0))
    task = asyncio.create_task(run(engine, "threads", 200))
    counts = []
    while not task.done():
        counts.append(process.num_threads())
        await asyncio.sleep(0.01)
    assert counts
    assert set(counts) == {cores + 1}
    assert usable(64) == cores
    assert process.nice() >= NICENESS


async def test_an_engine_that_hangs_is_ended_and_restarted(engine: EngineClient) -> None:
    generation = await engine.generate(GenerationRequest(Prompt(ask("hang")), 200, temperature=0.0))
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    loop = asyncio.get_running_loop()
    stopped = loop.time()
    with pytest.raises(EngineCrashed):
        await collect(generation)
    assert loop.time() - stopped < 5 * HANG_S
    await until(lambda: engine.is_ready)
    assert engine.restarts == 1
    assert len((await run(engine, "alive"))[0]) == 24


@pytest.mark.slow
async def test_an_engine_that_waits_or_is_paused_does_not_hang(engine: EngineClient) -> None:
    """The control of the test above: silence alone ends nothing."""
    before = engine.pid
    generation = await engine.generate(GenerationRequest(Prompt(ask("paused")), 200, temperature=0.0))
    await generation.pause()
    await asyncio.sleep(2 * HANG_S)
    await generation.cancel()
    await collect(generation)
    await asyncio.sleep(HANG_S)
    assert engine.pid == before


async def test_texts_and_tokens_are_prompts(engine: EngineClient) -> None:
    text = Prompt(text="raw text")
    tokens = Prompt(
        tokens=[
            1,
            *(byte + FIRST_BYTE_TOKEN for byte in b"raw"),
            VOCABULARY - 1,
            *(byte + FIRST_BYTE_TOKEN for byte in b"text"),
        ]
    )
    assert await engine.count(text) == await engine.count(tokens) == 9
    answers = [
        await collect(await engine.generate(GenerationRequest(prompt, 12, temperature=0.0)))
        for prompt in (text, tokens)
    ]
    assert ids(answers[0]) == ids(answers[1])
    assert ids(answers[0]) != ids(await run(engine, "raw text", 12))


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(tokens=[VOCABULARY]),
        Prompt(tokens=[-1]),
        Prompt(tokens=[True]),
        Prompt(tokens=[]),
        Prompt(),
        Prompt(text="a", tokens=[1]),
        Prompt(text="\ud800"),
    ],
)
async def test_what_is_no_prompt_is_refused(engine: EngineClient, prompt: Prompt) -> None:
    for work in (engine.count(prompt), engine.embed([prompt])):
        with pytest.raises(GenerationError) as failure:
            await work
        assert failure.value.code == "bad_request"
    with pytest.raises(GenerationError):
        await collect(await engine.generate(GenerationRequest(prompt, 5)))


async def test_tools_reach_the_prompt_of_a_template_that_writes_them(engine: EngineClient, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    assert not engine.has_tools
    assert await engine.count(Prompt(ask("x"), tools=tools)) == await engine.count(Prompt(ask("x")))
    for name, template, has_tools in (
        ("writes", "{% if tools %}{{ tools | tojson }}{% endif %}" + CHAT_TEMPLATE, True),
        ("mentions", "{# tools #}{% set tools = 1 %}" + CHAT_TEMPLATE, False),
    ):
        model = write_tiny_gguf(tmp_path / f"{name}.gguf", template=template)
        other = EngineClient(EngineSettings(model, vocabulary_only=True), BareHost())
        await other.start()
        assert other.has_tools is has_tools
        more = await other.count(Prompt(ask("x"), tools=tools)) - await other.count(Prompt(ask("x")))
        assert (more > 0) is has_tools
        await other.stop()


async def test_the_vocabulary_alone_counts_and_tokenizes(engine: EngineClient) -> None:
    other = EngineClient(EngineSettings(tiny_model(), vocabulary_only=True), BareHost())
    await other.start()
    assert other.context == CONTEXT
    assert await other.count(Prompt(ask("hello"))) == await engine.count(Prompt(ask("hello")))
    for text in ("plain", "é</s> {}", ""):
        pairs = await other.tokenize(text)
        assert b"".join(piece for _, piece in pairs).decode() == text
        assert pairs == await engine.tokenize(text)
    for work in (other.embed([Prompt(text="x")]), run(other, "x")):
        with pytest.raises(GenerationError) as failure:
            await work
        assert failure.value.code == "bad_request"
    await other.stop()


async def test_embeddings_are_those_of_the_llama_class(engine: EngineClient) -> None:
    import llama_cpp

    texts = ["one", "a rather longer text " * 7, "three"]
    peer = llama_cpp.Llama(
        str(tiny_model()),
        embedding=True,
        pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN,
        n_ctx=CONTEXT,
        n_threads=1,
        verbose=False,
    )
    expected = np.array(peer.embed(texts, normalize=True))
    answer = asyncio.create_task(run(engine, "meanwhile", 100))
    ours = np.array(await engine.embed([Prompt(text=text) for text in texts]))
    assert np.linalg.norm(ours, axis=1) == pytest.approx([1, 1, 1])
    assert ours == pytest.approx(expected, abs=2e-3)
    assert abs(ours[0] - ours[1]).max() > 0.05
    await answer
    assert await engine.embed([]) == []
    with pytest.raises(GenerationError) as failure:
        await engine.embed([Prompt(text="x" * CONTEXT)])
    assert failure.value.code == "prompt_too_long"


async def test_memory_is_not_underestimated(engine: EngineClient) -> None:
    assert engine.pid is not None
    estimate = estimate_bytes(tiny_model(), 0, 1)
    used = psutil.Process(engine.pid).memory_info().rss
    assert used < estimate < used + 200 * 1024 * 1024
    keys_and_values = 2 * 2 * 2 * 64 * CONTEXT
    assert estimate_bytes(tiny_model(), 0, 5) - estimate == 4 * keys_and_values
    assert estimate_bytes(tiny_model(), 2 * CONTEXT, 1) - estimate == 2 * keys_and_values
