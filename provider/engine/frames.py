"""Frames between the worker (host) and its engine: a 4-byte big-endian length, then one JSON object in UTF-8.

A prompt is {messages, tools}, {text} or {tokens}. Bytes are strings of the characters U+0000 to U+00FF, one a byte.

Host to engine, by `op`:
- `count` {id, prompt}: how many tokens the prompt has
- `render` {id, prompt}: the prompt as text
- `tokenize` {id, text}: the text's tokens, without any special ones
- `embed` {id, prompts}
- `generate` {id, prompt, max_tokens, temperature, top_p, seed, stop, frequency_penalty, presence_penalty, logprobs,
  output, cache_key}: `seed`, `logprobs` and `output` may be null; `output` is {schema, before, after}
- `pause` / `resume` / `cancel` {id}: of a generation
- `ping` {}: answered between two decodes
- `shutdown` {}

Engine to host, by `ev`:
- `ready` {model}: once, after loading
- `fatal` {code, message}: once, instead of `ready`; the engine exits with a non-zero code
- `pong` {}
- `counted` {id, tokens}
- `rendered` {id, text}
- `tokenized` {id, tokens, pieces}: `pieces` holds the bytes of each token
- `embedding` {id, index, vector}: for each prompt, in order; then `embedded` {id}
- `started` {id, prompt_tokens, cached_tokens}
- `token` {id, token, text, logprob}: `text` may be empty while a character or a possible stop string is incomplete;
  with `logprobs` also piece (bytes) and top [[token, logprob, piece], …], likeliest first
- `done` {id, finish_reason, text, prompt_tokens, cached_tokens, generated_tokens, queue_ms, prompt_ms, generate_ms}
- `error` {id, code, message}: that request is over
"""

import json
import math
import struct
from typing import Any

MAX_FRAME_BYTES = 8 * 1024 * 1024
HEADER = struct.Struct(">I")

Frame = dict[str, Any]


class FrameError(ValueError):
    """The other side sent something that is not a frame."""


def encode(frame: Frame) -> bytes:
    """One frame as bytes. Raises FrameError above MAX_FRAME_BYTES, and for what is no JSON."""
    try:
        body = json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"this is no JSON text: {error}") from error
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(body)} bytes exceeds the maximum of {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


def body_length(header: bytes) -> int:
    """The length announced by a header. Raises FrameError if it is zero or above MAX_FRAME_BYTES."""
    (length,) = HEADER.unpack(header)
    if not 0 < length <= MAX_FRAME_BYTES:
        raise FrameError(f"frame length {length} is outside 1..{MAX_FRAME_BYTES}")
    return int(length)


def decode(body: bytes) -> Frame:
    """The object in a frame's body. Raises FrameError if it is not a JSON object."""
    try:
        frame = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)
        if b"\\u" in body:
            json.dumps(frame, ensure_ascii=False).encode()  # an escaped half of a character passes until then
    except (ValueError, RecursionError) as error:
        raise FrameError(f"frame is not JSON: {error}") from error
    if not isinstance(frame, dict):
        raise FrameError("frame is not a JSON object")
    return frame


def _object(pairs: list[tuple[str, Any]]) -> Frame:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        return _no_number(text)
    return number


def _no_number(text: str) -> float:
    raise ValueError(f"{text[:20]} is no number")
