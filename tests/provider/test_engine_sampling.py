"""How the engine chooses tokens: penalties, log-probabilities, seeds, and JSON by grammar. On the tiny model."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provider.backend import JsonOutput
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.errors import GenerationError
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.generating import Answer, ids, run, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine() -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineSettings(tiny_model(), threads=1, parallel=4), BareHost())
    with hold_engine_slots(1):
        await client.start()
        yield client
        await client.stop()


async def test_penalties_drive_out_repetition(engine: EngineClient) -> None:
    plain = ids(await run(engine, "aaaa", 60))
    for penalty in ("frequency_penalty", "presence_penalty"):
        penalised = ids(await run(engine, "aaaa", 60, **{penalty: 2.0}))
        rewarded = ids(await run(engine, "aaaa", 60, **{penalty: -2.0}))
        assert len(set(penalised)) > len(set(plain)) > len(set(rewarded))
    hard = Counter(ids(await run(engine, "aaaa", 60, frequency_penalty=100.0)))
    assert max(hard.values()) == 1


async def test_logprobs_are_the_models_before_temperature_and_penalties(engine: EngineClient) -> None:
    greedy = await run(engine, "odds", 8, logprobs=5)
    for token in greedy[0]:
        assert token.piece
        assert token.top[0].token == token.token
        assert math.isclose(token.top[0].logprob, token.logprob)
        assert token.top[0].piece == token.piece
        assert all(above.logprob >= below.logprob for above, below in pairwise(token.top))
        assert sum(math.exp(top.logprob) for top in token.top) < 1
    hot = await run(engine, "odds", 8, logprobs=20, temperature=3.0, seed=7, frequency_penalty=1.5)
    for first, second in zip(greedy[0][0].top, hot[0][0].top, strict=False):
        assert first.token == second.token
        assert first.logprob == pytest.approx(second.logprob, abs=1e-3)
    assert all(len(token.top) == 20 for token in hot[0])
    assert all(token.piece == b"" and token.top == () for token in (await run(engine, "odds", 8))[0])
    assert (await run(engine, "odds", 2, logprobs=0))[0][0].piece == greedy[0][0].piece


async def test_a_narrow_nucleus_is_greedy(engine: EngineClient) -> None:
    greedy = ids(await run(engine, "nucleus"))
    assert ids(await run(engine, "nucleus", temperature=1.0, seed=3, top_p=1e-6)) == greedy
    assert ids(await run(engine, "nucleus", temperature=1.0, seed=3)) != greedy


async def test_without_a_seed_answers_differ(engine: EngineClient) -> None:
    assert ids(await run(engine, "dice", temperature=1.5)) != ids(await run(engine, "dice", temperature=1.5))


SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 4},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ['"', "\\", "é\n", "\U0001f600"]}, "maxItems": 2},
        },
        "required": ["name", "tags"],
    },
    "union": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": {"a": [1, 'x"y']}}, {"type": "integer"}]},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "string", "maxLength": 2}]},
    "map": {"type": "array", "items": {"type": "object", "additionalProperties": False}, "minItems": 2, "maxItems": 3},
    "names": {"type": "object", "properties": {'q"\\': {"type": "null"}}, "required": ['q"\\']},
    "date": {"type": "string", "format": "date-time"},
    "nullable": {"type": ["string", "null"], "maxLength": 3},
}


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.0, 0.7, 1.0, 2.0]))
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
async def test_json_answers_parse_and_validate(
    engine: EngineClient, schema: dict[str, Any], seed: int, temperature: float
) -> None:
    answer = await run(engine, "json", 180, temperature=temperature, seed=seed, output=JsonOutput(schema))
    check_json(answer, schema)


async def test_json_stands_between_its_texts(engine: EngineClient) -> None:
    output = JsonOutput(SCHEMAS["union"], before='<call>\n"', after='"\\ ende </call>')
    text = text_of(await run(engine, "json", 120, temperature=1.0, seed=4, output=output))
    assert text.startswith(output.before)
    assert text.endswith(output.after)
    jsonschema.validate(json.loads(text.removeprefix(output.before).removesuffix(output.after)), output.schema)


async def test_without_a_grammar_the_model_writes_no_json(engine: EngineClient) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(text_of(await run(engine, "json", 120)))


async def test_grammars_and_plain_answers_share_batches(engine: EngineClient) -> None:
    output = JsonOutput(SCHEMAS["object"])
    alone = [await run(engine, "json", 120, output=output), await run(engine, "plain", 60)]
    together = await asyncio.gather(run(engine, "json", 120, output=output), run(engine, "plain", 60))
    assert [ids(answer) for answer in together] == [ids(answer) for answer in alone]


async def test_bad_schemas_are_refused_and_the_engine_lives(engine: EngineClient) -> None:
    for schema in ({"type": "string", "pattern": "^a\\"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}):
        with pytest.raises(GenerationError) as failure:
            await run(engine, "json", output=JsonOutput(schema))
        assert failure.value.code == "bad_schema"
    assert engine.restarts == 0


async def test_strings_of_bytes_make_whole_characters(engine: EngineClient) -> None:
    """The tiny model writes bytes at random: the grammar alone lets overlong forms and surrogates pass."""
    answer = await run(engine, "json", 150, output=JsonOutput({"type": "string", "minLength": 100}), logprobs=0)
    assert answer[1].finish_reason == "length"
    data = b"".join(token.piece for token in answer[0])
    assert data.startswith(b'"')
    assert any(byte >= 0xE0 for byte in data)
    text = data.decode("utf-8", "surrogateescape").rstrip("".join(map(chr, range(0xDC80, 0xDD00))))
    text.encode()


def check_json(answer: Answer, schema: dict[str, Any]) -> None:
    assert answer[1].finish_reason == "stop", text_of(answer)
    jsonschema.validate(json.loads(text_of(answer)), schema)
