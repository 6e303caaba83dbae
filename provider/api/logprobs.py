"""Log-probabilities in OpenAI's two shapes.

They are given in nats to three places: the value of a generated token is exactly the one that the receipt's root holds.
"""

from typing import Any

from protocol.merkle import quantise_logprob
from provider.backend import TopToken
from provider.events import Piece

LOWEST = -9999.0
"""Stands for everything less likely, minus infinity too, which JSON cannot say."""


def nats(thousandths: int) -> float:
    """A quantised log-probability as clients read it."""
    return max(LOWEST, thousandths / 1000)


def chat_entry(piece: Piece) -> dict[str, Any]:
    """A token of `choices[].logprobs.content`."""
    top = [_chat_token(other.piece, quantise_logprob(other.logprob)) for other in piece.top]
    return {**_chat_token(piece.piece, piece.logprob), "top_logprobs": top}


def _chat_token(piece: bytes, thousandths: int) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": nats(thousandths), "bytes": list(piece)}


class CompletionLogprobs:
    """`choices[].logprobs` of a completion; offsets in characters from the start of the answer."""

    def __init__(self) -> None:
        self._offset = 0
        self._entries: list[tuple[str, float, dict[str, float], int]] = []

    def add(self, piece: Piece) -> dict[str, Any]:
        """The object for this token alone."""
        text = token_text(piece.piece)
        entry = (text, nats(piece.logprob), _most_likely(piece.top), self._offset)
        self._offset += len(text)
        self._entries.append(entry)
        return self._object([entry])

    def whole(self) -> dict[str, Any]:
        """The object for all tokens."""
        return self._object(self._entries)

    def _object(self, entries: list[tuple[str, float, dict[str, float], int]]) -> dict[str, Any]:
        return {
            "tokens": [entry[0] for entry in entries],
            "token_logprobs": [entry[1] for entry in entries],
            "top_logprobs": [entry[2] for entry in entries],
            "text_offset": [entry[3] for entry in entries],
        }


def token_text(piece: bytes) -> str:
    """A token as completions name it: its text, or `bytes:\\xe2\\x80` for a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _most_likely(top: tuple[TopToken, ...]) -> dict[str, float]:
    return {token_text(other.piece): nats(quantise_logprob(other.logprob)) for other in top}
