"""What an engine that was taken over may send: whatever the bytes, the host gets a frame or a FrameError, and soon."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.engine import frames

SOAK_INPUTS = 1_000_000
_VALID = (
    {"ev": "pong"},
    {"ev": "token", "id": 1, "token": 5, "text": "é", "logprob": -0.5, "top": [[5, -0.5, "é"]]},
    {"ev": "embedding", "id": 2, "index": 0, "vector": [0.5] * 8},
    {"ev": "error", "id": 3, "code": "overloaded", "message": "later"},
)
_SEEDS = tuple(frames.encode(frame)[frames.HEADER.size :] for frame in _VALID)
_PARTS = (
    b"[" * 200,
    b'{"a":' * 200,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b"\x00",
    b'{"ev":"pong","ev":1}',
    b"\xef\xbb\xbf",
)


def check(body: bytes) -> None:
    """A body is a frame or a FrameError; what is a frame can be sent again."""
    try:
        frame = frames.decode(body)
    except frames.FrameError:
        return
    assert isinstance(frame, dict)
    assert frames.decode(frames.encode(frame)[frames.HEADER.size :]) == frame


def mutated(chance: random.Random) -> bytes:
    body = bytearray(chance.choice(_SEEDS))
    for _ in range(chance.randint(1, 4)):
        where = chance.randrange(len(body) + 1)
        match chance.randrange(4):
            case 0:
                body[where : where + chance.randint(1, 8)] = b""
            case 1:
                body[where:where] = chance.choice(_PARTS)
            case 2:
                body[where : where + 1] = chance.randbytes(1)
            case _:
                body[where:where] = body[: chance.randint(0, 40)]
    return bytes(body)


@given(st.binary(max_size=512))
def test_random_bytes(body: bytes) -> None:
    check(body)


@given(st.binary(min_size=4, max_size=4))
def test_random_headers(header: bytes) -> None:
    announced = int.from_bytes(header, "big")
    if 0 < announced <= frames.MAX_FRAME_BYTES:
        assert frames.body_length(header) == announced
    else:
        with pytest.raises(frames.FrameError):
            frames.body_length(header)


@settings(max_examples=200)
@given(st.integers(0, 2**64 - 1))
def test_mutated_frames(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        check(mutated(chance))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_deep_nesting_is_refused_at_once(opening: bytes) -> None:
    body = opening * (frames.MAX_FRAME_BYTES // len(opening))
    started = time.process_time()
    with pytest.raises(frames.FrameError):
        frames.decode(body)
    assert time.process_time() - started < 2


def test_a_huge_number_is_refused_at_once() -> None:
    started = time.process_time()
    with pytest.raises(frames.FrameError):
        frames.decode(b'{"id":' + b"9" * (frames.MAX_FRAME_BYTES - 7) + b"}")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"ev":"pong","ev":"token"}',
        b'{"ev":"token","logprob":NaN}',
        b'{"ev":"token","logprob":Infinity}',
        b'{"ev":"token","logprob":-Infinity}',
        b'{"ev":"token","logprob":1e999}',
        b'{"ev":"token","text":"\\ud800"}',
        '{"ev":"pong"}'.encode("utf-16"),
        '{"ev":"pong"}'.encode("utf-32"),
        b"[1]",
        b"null",
        b"",
        b'{"ev":"pong"}{}',
    ],
)
def test_what_json_does_not_have_is_no_frame(body: bytes) -> None:
    """Other readers would take it for something else, or fail on it later."""
    with pytest.raises(frames.FrameError):
        frames.decode(body)


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(), st.lists, max_leaves=20))
def test_valid_frames_are_read_as_they_were(value: object) -> None:
    assert frames.decode(json.dumps({"ev": "x", "id": value}).encode()) == {"ev": "x", "id": value}


@pytest.mark.soak
def test_a_million_inputs() -> None:
    chance = random.Random(20_261_125)
    for number in range(SOAK_INPUTS):
        check(chance.randbytes(chance.randrange(64)) if number % 4 == 0 else mutated(chance))
