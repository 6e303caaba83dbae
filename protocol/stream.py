"""Our lines inside an answer's event stream: SSE comments, which every OpenAI client skips.

    : clawmarket token 504 -1532
    data: {"object":"chat.completion.chunk", …}

    : clawmarket receipt leaseId=0x…;seq=1;…;signature=0x…

`token` carries a token id and its log-probability in thousandths of a nat: the leaf of the answer's root. It stands
before the data that shows its text. `receipt` and `exposure` carry the texts of `protocol.headers`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocol.exceptions import InvalidHeader
from protocol.headers import Exposure, Signed, encode_exposure, parse_exposure, parse_receipt
from protocol.typed_data import Receipt

PREFIX = ": clawmarket "
_TOKEN = re.compile(r"(0|[1-9][0-9]{0,9}) (-?(?:0|[1-9][0-9]{0,9}))", re.ASCII)


@dataclass(frozen=True, slots=True)
class StreamToken:
    """A generated token: its id, and its log-probability in thousandths of a nat."""

    token_id: int
    logprob: int


StreamLine = StreamToken | Signed[Receipt] | Exposure


def encode_line(line: StreamLine) -> str:
    """One comment line, without its line break."""
    if isinstance(line, StreamToken):
        return f"{PREFIX}token {line.token_id} {line.logprob}"
    if isinstance(line, Exposure):
        return f"{PREFIX}exposure {encode_exposure(line)}"
    return f"{PREFIX}receipt {line.encode()}"


def parse_line(text: str) -> StreamLine | None:
    """The reverse of `encode_line`; None for a line that is not ours. Raises InvalidHeader on one that is malformed."""
    if not text.startswith(PREFIX):
        return None
    kind, _, value = text[len(PREFIX) :].partition(" ")
    match kind:
        case "token":
            return _token(value)
        case "receipt":
            return parse_receipt(value)
        case "exposure":
            return parse_exposure(value)
        case _:
            raise InvalidHeader("stream", "a comment of ours of an unknown kind")


def _token(value: str) -> StreamToken:
    match = _TOKEN.fullmatch(value)
    if match is None:
        raise InvalidHeader("stream", "a token is its id and its log-probability")
    token_id, logprob = int(match[1]), int(match[2])
    if token_id >= 1 << 32 or not -(1 << 31) <= logprob < 1 << 31:
        raise InvalidHeader("stream", "a token is out of range")
    return StreamToken(token_id, logprob)
