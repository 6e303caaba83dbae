"""Tells a node's "too much at once" from its "too often": the code -32005 is sent for both."""

from __future__ import annotations

_WORDS_OF_SIZE = (
    "range",
    "too large",
    "too many blocks",
    "too many results",
    "more than",
    "response size",
    "limit exceeded: ",
    "exceeds the limit",
    "max results",
    "max block",
)
_WORDS_OF_QUOTA = ("rate", "per second", "quota", "capacity", "credits", "daily")


def is_about_size(message: str) -> bool:
    """Whether a node's error says that the range or the answer is too large, so that asking for less helps."""
    message = message.lower()
    return any(word in message for word in _WORDS_OF_SIZE) and not any(word in message for word in _WORDS_OF_QUOTA)
