"""Holding an answer's tokens against its choices, which come one after another."""

from dataclasses import dataclass

from consumer.exceptions import ReceiptRejected
from consumer.shown_calls import ShownCalls
from consumer.shown_text import ShownText, Vocabulary


@dataclass(frozen=True)
class Shape:
    """How an answer shows its tokens: its stop strings, how many choices it has, and which tools they may call."""

    stops: tuple[str, ...] = ()
    choices: int = 1
    tools: tuple[str, ...] = ()
    only_one_call: bool = False


class ShownChoices:
    """One answer of at most `max_tokens` tokens in all. Every method raises ReceiptRejected."""

    def __init__(self, vocabulary: Vocabulary, shape: Shape, max_tokens: int) -> None:
        self._vocabulary = vocabulary
        self._shape = shape
        self._most = max_tokens // shape.choices
        self._number = 0
        self._choice = self._begin()
        self._in_ended = 0

    @property
    def shown(self) -> int:
        """How many of the tokens have their text delivered, up to the first that has not."""
        return self._in_ended + self._choice.shown

    def token(self, token: int) -> None:
        """A token was counted: it belongs to the first choice that has not ended."""
        if self._number == self._shape.choices:
            raise ReceiptRejected("tokens", "tokens after the end of the last choice")
        if self._choice.tokens >= self._most:
            raise ReceiptRejected("tokens", f"more than the {self._most} tokens that one choice may have")
        self._choice.token(token)

    def delivered(self, choice: int, text: str) -> None:
        """Text of a choice arrived."""
        self._at(choice).delivered(text)

    def called(self, choice: int, number: int, name: str, arguments: str) -> None:
        """A piece of a choice's tool call arrived."""
        self._at(choice).called(number, name, arguments)

    def close(self, choice: int) -> None:
        """A choice is said to be complete."""
        self._at(choice).close()
        self._in_ended += self._choice.tokens
        self._number += 1
        self._choice = self._begin()

    def settle(self) -> None:
        """A receipt asks money for everything so far."""
        self._choice.settle()

    def _at(self, choice: int) -> ShownText:
        if choice != self._number:
            raise ReceiptRejected("text", f"choice {choice} where choice {self._number} has its tokens")
        return self._choice

    def _begin(self) -> ShownText:
        shape = self._shape
        if shape.tools:
            return ShownCalls(self._vocabulary, shape.stops, shape.tools, only_one=shape.only_one_call)
        return ShownText(self._vocabulary, shape.stops)
