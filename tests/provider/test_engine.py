"""The engine process through its host's client, on the tiny model."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from provider.backend import GenerationRequest, Prompt
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.errors import EngineCrashed, EngineStartError, GenerationError
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.generating import ask, collect, ids, run
from tests.support.tiny_gguf import CONTEXT, prompt_tokens
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine() -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineSettings(tiny_model(), threads=1, parallel=3), BareHost())
    with hold_engine_slots(1):
        await client.start()
        yield client
        await client.stop()


async def test_answer_has_tokens_counts_and_logprobs(engine: EngineClient) -> None:
    tokens, done = await run(engine, "hello there")
    assert len(tokens) == done.generated_tokens == 24
    assert done.finish_reason == "length"
    assert done.prompt_tokens == prompt_tokens(ask("hello there")) == await engine.count(Prompt(ask("hello there")))
    assert done.cached_tokens == 0
    assert all(token.logprob < 0 for token in tokens)


async def test_answers_in_a_batch_are_those_alone(engine: EngineClient) -> None:
    questions = ["one", "a much longer question " * 5, "three", "four, which waits for a slot", "five"]
    alone = [await run(engine, question) for question in questions]
    together = await asyncio.gather(*[run(engine, question) for question in questions])
    assert [ids(answer) for answer in together] == [ids(answer) for answer in alone]
    for ours, theirs in zip(alone, together, strict=True):
        assert [t.logprob for t in ours[0]] == pytest.approx([t.logprob for t in theirs[0]], abs=1e-2)


async def test_seed_decides_sampled_answers(engine: EngineClient) -> None:
    first = await run(engine, "dice", temperature=1.0, seed=5)
    assert ids(await run(engine, "dice", temperature=1.0, seed=5)) == ids(first)
    assert ids(await run(engine, "dice", temperature=1.0, seed=6)) != ids(first)


async def test_cache_is_reused_by_its_own_key_only(engine: EngineClient) -> None:
    question = "remember this prompt"
    plain = await run(engine, question)
    first = await run(engine, question, cache_key="a")
    again = await run(engine, question, cache_key="a")
    other = await run(engine, question, cache_key="b")
    assert first[1].cached_tokens == other[1].cached_tokens == 0
    assert again[1].cached_tokens == again[1].prompt_tokens - 1
    assert ids(again) == ids(first) == ids(other) == ids(plain)


async def test_stop_string_ends_the_answer(engine: EngineClient) -> None:
    tokens, _ = await run(engine, "stop here")
    text = "".join(token.text for token in tokens)
    stop = next(text[i : i + 2] for i in range(4, len(text) - 2) if text[i : i + 2].isascii())
    stopped, done = await run(engine, "stop here", stop=(stop,))
    assert done.finish_reason == "stop"
    assert len(stopped) < len(tokens)
    assert "".join(token.text for token in stopped) + done.text == text[: text.index(stop)]


async def test_cancel_frees_the_slot(engine: EngineClient) -> None:
    generations = [
        await engine.generate(GenerationRequest(Prompt(ask(f"long {n}")), 200, temperature=0.0)) for n in range(4)
    ]
    for generation in generations:
        await generation.cancel()
    for generation in generations:
        _, done = await collect(generation)
        assert done.finish_reason in ("cancelled", "length")
    assert len((await run(engine, "still works"))[0]) == 24


async def test_pause_holds_and_resume_goes_on(engine: EngineClient) -> None:
    reference = ids(await run(engine, "pause me", 60))
    for _ in range(20):
        generation = await engine.generate(GenerationRequest(Prompt(ask("pause me")), 60, temperature=0.0))
        await generation.pause()
        task = asyncio.create_task(collect(generation))
        await run(engine, "in the meantime", 150)
        if not task.done():
            break
        # On a busy machine the whole answer may be there before the pause is.
    else:
        pytest.fail("no pause ever held")
    await generation.resume()
    assert ids(await task) == reference


async def test_prompt_longer_than_the_context_is_refused(engine: EngineClient) -> None:
    with pytest.raises(GenerationError) as failure:
        await run(engine, "x" * CONTEXT)
    assert failure.value.code == "prompt_too_long"


async def test_answer_ends_at_the_context(engine: EngineClient) -> None:
    tokens, done = await run(engine, "x" * 200, 1_000)
    assert done.finish_reason == "length"
    assert done.prompt_tokens + len(tokens) == CONTEXT + 1


async def test_messages_the_template_refuses_are_an_error(engine: EngineClient) -> None:
    with pytest.raises(GenerationError) as failure:
        await engine.count(Prompt([{"role": "wizard", "content": "x"}]))
    assert failure.value.code == "bad_messages"


async def test_crash_fails_the_request_and_the_engine_comes_back(engine: EngineClient) -> None:
    generation = await engine.generate(GenerationRequest(Prompt(ask("doomed")), 200, temperature=0.0))
    await generation.pause()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed):
        await collect(generation)
    await until(lambda: engine.is_ready)
    assert engine.restarts == 1
    assert len((await run(engine, "alive"))[0]) == 24


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, "model_missing", "cannot be read"),
        (b"not a model at all", "model_damaged", "is not a GGUF file"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, "model_damaged", "safe to load"),
        ("half", "model_damaged", "safe to load"),
    ],
    ids=["missing", "text", "broken header", "cut in half"],
)
async def test_unusable_model_is_a_clear_error(
    tmp_path: Path, content: bytes | str | None, code: str, words: str
) -> None:
    path = tmp_path / "model.gguf"
    if content == "half":
        whole = tiny_model().read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    engine = EngineClient(EngineSettings(path), BareHost())
    with pytest.raises(EngineStartError, match=words) as failure:
        await engine.start()
    assert failure.value.code == code
    await engine.stop()


async def test_exit_code_says_what_was_wrong(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), tmp_path / "engine.sock")
    for model, expected in ((tmp_path / "none.gguf", 3), (Path(__file__), 4)):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "provider.engine", f"--model={model}", f"--socket={tmp_path}/engine.sock"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert process.returncode == expected
        assert str(model) in errors.decode()
    server.close()
    await server.wait_closed()


async def test_without_host_the_engine_ends(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "provider.engine", f"--model={tiny_model()}", f"--socket={tmp_path}/none.sock"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 6
    assert "no host" in errors.decode()
