"""An engine that was taken over answers requests: it gets no further than what was asked for, and is ended."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.backend import Done, Token
from provider.engine import frames
from provider.engine.client import EngineGeneration
from provider.engine.errors import EngineCrashed, GenerationError
from provider.engine.expecting import (
    MAX_MESSAGE,
    MAX_PIECE_BYTES,
    CountFrame,
    EmbedFrames,
    Expected,
    GenerationFrames,
    RenderFrame,
    Reply,
    Started,
    TokenizeFrame,
)
from provider.engine.process import Connection
from tests.provider.test_engine_launch import LyingEngine

SOAK_INPUTS = 1_000_000
TOKENS = 8
STARTED = {"ev": "started", "id": 1, "prompt_tokens": 5, "cached_tokens": 2}
TOKEN = {"ev": "token", "id": 1, "token": 7, "text": "a", "logprob": -0.5}
RICH = {**TOKEN, "piece": "a", "top": [[7, -0.5, "a"], [8, -2.0, "é"]]}
DONE = {
    "ev": "done", "id": 1, "finish_reason": "stop", "text": "", "prompt_tokens": 5, "cached_tokens": 2,
    "generated_tokens": 1, "queue_ms": 0, "prompt_ms": 3, "generate_ms": 4,
}  # fmt: skip
ERROR = {"ev": "error", "id": 1, "code": "engine_failed", "message": "it failed"}
_VECTOR = {"ev": "embedding", "id": 1, "index": 0, "vector": [0.5, 0.5]}
_FRAMES: tuple[dict[str, Any], ...] = (
    STARTED, TOKEN, RICH, DONE, ERROR, _VECTOR,
    {"ev": "pong"},
    {"ev": "embedded", "id": 1},
    {"ev": "counted", "id": 1, "tokens": 3},
    {"ev": "rendered", "id": 1, "text": "hello"},
    {"ev": "tokenized", "id": 1, "tokens": [1, 2], "pieces": ["a", "b"]},
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2, 2**31, 2**70, 1e300, -1e300, 0.5, "", "x" * 5_000, "\U0001f600", [], [[]], [1] * 300, {},
    {"ev": {}},
)  # fmt: skip
_MAKERS: tuple[Callable[[], Expected], ...] = (
    lambda: GenerationFrames(TOKENS, None),
    lambda: GenerationFrames(TOKENS, 2),
    lambda: GenerationFrames(0, None),
    CountFrame,
    RenderFrame,
    lambda: TokenizeFrame(10),
    lambda: EmbedFrames(2, 2),
)


def altered(frame: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A frame of which one thing is another."""
    changed = dict(frame)
    match chance.randrange(4):
        case 0:
            changed.pop(chance.choice(list(changed)))
        case 1:
            changed[chance.choice(list(changed))] = chance.choice(_VALUES)
        case 2:
            changed[chance.choice(("text", "top", "tokens", "vector", "code", "other"))] = chance.choice(_VALUES)
        case _:
            pass
    return changed


def check(chance: random.Random) -> int:
    """Sends a sequence to one reader until it is refused; returns how many frames it was."""
    expected = chance.choice(_MAKERS)()
    most, characters, sent = expected.left, 0, 0
    while True:
        sent += 1
        try:
            item = expected.read(altered(chance.choice(_FRAMES), chance))
        except frames.FrameError:
            break
        match item:
            case Token() | Done():
                characters += len(item.text)
                assert len(getattr(item, "top", ())) <= 2
            case GenerationError():
                assert len(str(item)) <= MAX_MESSAGE
            case _:
                assert isinstance(item, Started | Reply)
        assert sent <= most
    assert characters <= (TOKENS + 1) * MAX_PIECE_BYTES
    return sent


@settings(max_examples=500)
@given(st.integers(0, 2**64 - 1))
def test_any_sequence_ends_in_its_bounds(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        check(chance)


@pytest.mark.soak
def test_a_million_frames() -> None:
    chance = random.Random(20_261_126)
    sent = 0
    while sent < SOAK_INPUTS:
        sent += check(chance)


@pytest.mark.parametrize(
    ("sequence", "words"),
    [
        ([TOKEN], "does not follow"),
        ([STARTED, STARTED], "does not follow"),
        ([STARTED, *[TOKEN] * (TOKENS + 1)], "does not follow"),
        ([STARTED, TOKEN, DONE, TOKEN], "more frames"),
        ([ERROR, ERROR], "more frames"),
        ([STARTED, RICH], "not asked for"),
        ([STARTED, {**TOKEN, "text": "x" * (MAX_PIECE_BYTES + 1)}], "text is no text of at most"),
        ([STARTED, DONE], "other tokens than came"),
        ([STARTED, TOKEN, {**DONE, "prompt_tokens": 500}], "other tokens than came"),
        ([{**STARTED, "cached_tokens": 6}], "cached_tokens"),
        ([STARTED, {**TOKEN, "logprob": 5}], "log-probability"),
        ([STARTED, {**TOKEN, "token": True}], "token is no whole number"),
        ([STARTED, TOKEN, {**DONE, "finish_reason": "paid"}], "no known reason"),
        ([{**ERROR, "code": "unpaid"}], "no known code"),
    ],
)
def test_what_may_not_come_is_named(sequence: list[frames.Frame], words: str) -> None:
    expected = GenerationFrames(TOKENS, None)
    for frame in sequence[:-1]:
        expected.read(frame)
    with pytest.raises(frames.FrameError, match=words):
        expected.read(sequence[-1])


@pytest.mark.parametrize(
    ("expected", "frame"),
    [
        (CountFrame(), {"ev": "rendered", "text": "x"}),
        (CountFrame(), {"ev": "counted", "tokens": "many"}),
        (TokenizeFrame(1), {"ev": "tokenized", "tokens": [1] * 4, "pieces": ["x"] * 4}),
        (TokenizeFrame(9), {"ev": "tokenized", "tokens": [1], "pieces": ["\u0100"]}),
        (EmbedFrames(1, 2), {**_VECTOR, "index": 1}),
        (EmbedFrames(1, 3), _VECTOR),
        (EmbedFrames(1, 2), {**_VECTOR, "vector": [1e300, 0.0]}),
    ],
)
def test_replies_are_held_against_the_question(expected: Expected, frame: frames.Frame) -> None:
    with pytest.raises(frames.FrameError):
        expected.read(frame)


@contextlib.asynccontextmanager
async def lying() -> AsyncIterator[tuple[Connection, asyncio.StreamWriter, asyncio.Task[None]]]:
    """A connection of the worker's, and the end of it that the engine has."""
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda reader, writer: accepted.put_nowait((reader, writer)), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    _, engine = await accepted.get()
    connection = Connection(LyingEngine(engine), reader, writer)
    task = asyncio.create_task(connection.dispatch(60.0))
    try:
        yield connection, engine, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for each in (writer, engine):
            each.close()
        server.close()
        await server.wait_closed()


def flood(frame: frames.Frame) -> bytes:
    return frames.encode(frame) * 20_000


@pytest.mark.parametrize(
    "content",
    [
        flood(TOKEN),
        frames.encode(STARTED) + flood(TOKEN),
        flood(ERROR),
        flood({**TOKEN, "id": 2}),
        flood({"ev": "pong"}),
    ],
    ids=["tokens", "more tokens than asked", "errors", "another request", "pongs"],
)
async def test_a_flood_ends_the_engine_and_is_not_kept(content: bytes) -> None:
    """Nobody reads the answer meanwhile."""
    async with lying() as (connection, engine, dispatching):
        generation = EngineGeneration(connection, 1, GenerationFrames(TOKENS, None))
        connection.register(1, generation)
        engine.write(content)
        await asyncio.wait_for(dispatching, 30)
        assert not connection.is_open
        assert generation._items.qsize() <= TOKENS + 3  # the start, the end, and why the engine was ended
        with pytest.raises((EngineCrashed, GenerationError), match=r"broke its protocol|failed"):
            async for _ in generation:
                pass


async def test_what_is_on_its_way_for_a_forgotten_request_is_no_flood() -> None:
    async with lying() as (connection, engine, dispatching):
        generation = EngineGeneration(connection, 1, GenerationFrames(TOKENS, None))
        connection.register(1, generation)
        generation.forget()
        engine.write(frames.encode(STARTED) + frames.encode(TOKEN) * TOKENS + frames.encode(DONE))
        counting = EngineGeneration(connection, 2, CountFrame())
        connection.register(2, counting)
        engine.write(frames.encode({"ev": "counted", "id": 2, "tokens": 3}))
        assert await asyncio.wait_for(counting.next_value(), 30) == 3
        assert connection.is_open
        engine.write(frames.encode({**TOKEN, "id": 1}))
        await asyncio.wait_for(dispatching, 30)
