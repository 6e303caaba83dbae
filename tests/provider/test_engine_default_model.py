"""The engine with the default model, a real one: its batches, JSON and tools."""

import asyncio
import json
import math
from collections.abc import AsyncIterator

import jsonschema
import pytest
import pytest_asyncio

from provider.backend import JsonOutput, Prompt
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.llama import LONE_CELLS
from provider.engine.memory import estimate_bytes
from scripts.default_model import default_model
from tests.support.engine_slots import hold_engine_slots
from tests.support.generating import Answer, ids, run, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
PARALLEL = 8
CONTEXT = 512
TOKENS = 64
SUBJECTS = ("a river", "mountains", "bread", "the sea at night", "seven dwarfs", "rust", "music", "tea")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine() -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineSettings(default_model(), threads=2, parallel=PARALLEL, context=CONTEXT), BareHost())
    with hold_engine_slots(2):
        await client.start()
        yield client
        await client.stop()


@pytest.mark.slow
async def test_eight_answers_at_once_are_those_alone(engine: EngineClient) -> None:
    """With prompts of several lengths, read in pieces while others answer."""
    questions = [f"Tell me about {subject}." * (1 + number % 3 * 4) for number, subject in enumerate(SUBJECTS)]
    alone = [await run(engine, question, TOKENS) for question in questions]
    together = await asyncio.gather(*[run(engine, question, TOKENS) for question in questions])
    assert list(map(exactly, together)) == list(map(exactly, alone))
    assert len({tuple(ids(answer)) for answer in alone}) == PARALLEL
    assert sum(len(ids(answer)) for answer in alone) > PARALLEL * TOKENS // 2


def exactly(answer: Answer) -> list[tuple[int, str]]:
    """Tokens and their log-probabilities to the last bit."""
    return [(token.token, token.logprob.hex()) for token in answer[0]]


@pytest.mark.slow
async def test_a_long_answer_alone_is_that_among_others(engine: EngineClient) -> None:
    """Beyond the length from which a single row would be summed in another order; alone it decodes guesses as well."""
    question = "Tell a story about " + ", ".join(SUBJECTS) + " and many others. " + "It rains. " * 80
    alone = await run(engine, question, TOKENS)
    together = await asyncio.gather(run(engine, question, TOKENS), run(engine, "Tell me about tea.", TOKENS))
    assert exactly(together[0]) == exactly(alone)
    assert alone[1].prompt_tokens > LONE_CELLS


@pytest.mark.slow
async def test_json_of_a_real_vocabulary_validates(engine: EngineClient) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"enum": ["Paris", "Zürich", "São Paulo"]},
            "people": {"type": "integer"},
            "note": {"type": "string", "maxLength": 20},
        },
        "required": ["city", "people", "note"],
    }
    for seed in range(3):
        output = JsonOutput(schema, before="<tool_call>\n", after="\n</tool_call>")
        answer = await run(engine, "Describe a city.", 100, temperature=1.2, seed=seed, output=output, logprobs=3)
        text = text_of(answer)
        assert answer[1].finish_reason == "stop"
        jsonschema.validate(json.loads(text.removeprefix(output.before).removesuffix(output.after)), schema)
        assert b"".join(token.piece for token in answer[0]).decode() == text
        assert all(math.fsum(math.exp(top.logprob) for top in token.top) <= 1 + 1e-6 for token in answer[0])


async def test_text_comes_back_from_its_tokens(engine: EngineClient) -> None:
    text = "Grüße, 世界! <|im_end|> def f(x): return x  # 🙂"
    pairs = await engine.tokenize(text)
    assert b"".join(piece for _, piece in pairs).decode() == text
    assert await engine.count(Prompt(tokens=[token for token, _ in pairs])) == len(pairs)


async def test_memory_is_not_underestimated(engine: EngineClient) -> None:
    import psutil

    assert engine.pid is not None
    await engine.embed([Prompt(text="x")])
    used = psutil.Process(engine.pid).memory_info().rss
    assert used < estimate_bytes(default_model(), CONTEXT, PARALLEL) < 2.5 * used
