"""Frames between the worker (host) and its engine: a 4-byte big-endian length, then one JSON object in UTF-8.

Host to engine, by `op`:
- `count` {id, messages}: how many tokens the rendered prompt has
- `generate` {id, messages, max_tokens, temperature, top_p, seed, stop, cache_key}
- `pause` / `resume` / `cancel` {id}
- `shutdown` {}

Engine to host, by `ev`:
- `ready` {model}: once, after loading
- `fatal` {code, message}: once, instead of `ready`; the engine exits with a non-zero code
- `counted` {id, tokens}
- `started` {id, prompt_tokens, cached_tokens}
- `token` {id, token, text, logprob}: `text` may be empty while a character or a possible stop string is incomplete
- `done` {id, finish_reason, text, prompt_tokens, cached_tokens, generated_tokens, queue_ms, prompt_ms, generate_ms}
- `error` {id, code, message}: that request is over
"""

import json
import struct
from typing import Any

MAX_FRAME_BYTES = 8 * 1024 * 1024
HEADER = struct.Struct(">I")

Frame = dict[str, Any]


class FrameError(ValueError):
    """The other side sent something that is not a frame."""


def encode(frame: Frame) -> bytes:
    """One frame as bytes. Raises FrameError above MAX_FRAME_BYTES."""
    body = json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode()
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
        frame = json.loads(body)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FrameError(f"frame is not JSON: {error}") from error
    if not isinstance(frame, dict):
        raise FrameError("frame is not a JSON object")
    return frame
