"""What every shape of an answer is made of."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

from provider.events import Piece


@dataclass(frozen=True)
class Totals:
    """What an answer used, in tokens."""

    prompt: int
    cached: int
    completion: int

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Choice(ABC):
    """One of an answer's choices, as it grows. Lists hold entries of a chunk's `choices`."""

    finish_reason: str = ""

    @abstractmethod
    def opening(self) -> list[dict[str, Any]]:
        """What a stream says before its first token."""

    @abstractmethod
    def take(self, piece: Piece) -> list[dict[str, Any]]:
        """One token more."""

    @abstractmethod
    def close(self, finish_reason: str, text: str) -> list[dict[str, Any]]:
        """The end, with the text that was held back."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The entry of an answer that is not streamed."""


class Shape(Protocol):
    """How an answer is put together."""

    def choice(self, index: int) -> Choice: ...

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]: ...

    def whole(self, choices: list[dict[str, Any]], totals: Totals) -> dict[str, Any]: ...
