"""Holding tokens against the text that was delivered for them, as both arrive.

Every counted token must be one of the vocabulary, and together they must read as exactly the text that was shown: whole
characters at once, held back only while a character is incomplete or the text may become a stop string. What each of
several choices, or a tool call, must read as is told by `shown_choices` and `shown_calls`.
"""

import codecs
from typing import Protocol

from consumer.exceptions import ReceiptRejected

INVISIBLE_EVERY = 16
"""A model samples a control token now and then; more than one in so many, and one more, is padding."""
SPELLING_FACTOR, SPELLING_SLACK = 2, 16
"""A model may spell a word in more tokens than needed; beyond this many times what its text takes it is padding."""


class Vocabulary(Protocol):
    """The tokens of a model, numbered from 0."""

    @property
    def size(self) -> int: ...

    def piece(self, token: int) -> bytes: ...

    def count_text(self, text: str) -> int: ...


class ShownText:
    """One choice of an answer. Every method raises ReceiptRejected.

    `tokens` have been counted, and the text of the first `shown` of them was delivered.
    """

    def __init__(self, vocabulary: Vocabulary, stops: tuple[str, ...]) -> None:
        self._vocabulary = vocabulary
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._due = ""  # decoded and not delivered yet
        self._unspelled = ""  # decoded since it was last counted what the text takes
        self._has_ended = False
        self.tokens = 0
        self.shown = 0
        self._invisible = 0
        self._needed = 0

    def token(self, token: int) -> None:
        """A token was counted."""
        if self._has_ended:
            raise ReceiptRejected("tokens", "tokens after the end of the text")
        if token >= self._vocabulary.size:
            raise ReceiptRejected("tokens", f"token {token} is not in the vocabulary of {self._vocabulary.size}")
        piece = self._vocabulary.piece(token)
        self.tokens += 1
        self._invisible += not piece
        if self._invisible * INVISIBLE_EVERY > self.tokens + INVISIBLE_EVERY:
            raise ReceiptRejected("tokens", f"{self._invisible} of {self.tokens} tokens carry no text")
        text = self._decoder.decode(piece)
        self._unspelled += text
        self._due += text
        ends = [position for stop in self._stops if (position := self._due.find(stop)) >= 0]
        if ends:
            self._due = self._due[: min(ends)]
            self._has_ended = True
        self._note()

    def delivered(self, text: str) -> None:
        """Text arrived."""
        if self._due.startswith(text):
            self._due = self._due[len(text) :]
        elif not self._has_ended and text == self._due + self._incomplete():
            self._due = ""
            self._has_ended = True
        else:
            raise ReceiptRejected("text", "the text is not what the tokens read as")
        self._note()

    def called(self, number: int, name: str, arguments: str) -> None:  # noqa: ARG002
        """A piece of a tool call arrived."""
        raise ReceiptRejected("text", "a tool call where the answer is text")

    def close(self) -> None:
        """The choice is said to be complete: nothing is held back any more."""
        if self._due:
            raise self._undelivered()
        self.settle()

    def settle(self) -> None:
        """A receipt asks money for everything so far."""
        if not self._is_shown():
            raise self._undelivered()
        if self._is_long():
            self._needed += self._vocabulary.count_text(self._unspelled)
            self._unspelled = ""
            if self._is_long():
                raise ReceiptRejected("tokens", f"{self.tokens} tokens for a text that takes {self._needed}")

    def _is_long(self) -> bool:
        """Whether there are more tokens than the text needs, as far as that was counted."""
        return self.tokens - self._invisible > SPELLING_FACTOR * self._needed + SPELLING_SLACK

    def _is_shown(self) -> bool:
        """Whether everything due was delivered, but for what may become a stop string."""
        return not self._due or (not self._has_ended and any(stop.startswith(self._due) for stop in self._stops))

    def _note(self) -> None:
        if self._is_shown():
            self.shown = self.tokens

    def _undelivered(self) -> ReceiptRejected:
        return ReceiptRejected("text", f"{len(self._due)} characters of counted tokens were not delivered")

    def _incomplete(self) -> str:
        """How the provider shows a character that the end of the answer cut off."""
        return self._decoder.getstate()[0].decode("utf-8", "replace")
