"""Another server's text in the tokens that the terms fix: those are what is billed and signed."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from provider.backend import TopToken
from provider.backends.upstream import Delta, UpstreamToken
from provider.engine.errors import GenerationError

NOT_STATED = -math.inf
"""Log-probability of a token for which the server gave none; receipts carry the lowest value there is."""
MAX_HELD = 128
"""Characters without a space after which text is cut anywhere."""
_MAX_KNOWN = 65_536

Tokens = list[tuple[int, bytes]]
Tokenize = Callable[[str], Awaitable[Tokens]]


@dataclass(frozen=True)
class Worded:
    """One token of the terms' tokenizer, with its bytes."""

    token: int
    piece: bytes
    logprob: float
    top: tuple[TopToken, ...] = ()


class Wording:
    """Turns one answer's deltas into tokens whose bytes are exactly its text.

    Where the server names its tokens, each that is one of ours is taken as it is. Other text is held until the next
    word begins, so that it gives the tokens of the whole text however the server cuts it up.
    """

    def __init__(self, tokenize: Tokenize, known: dict[str, Tokens]) -> None:
        """`known` holds single tokens' spellings and outlives the answer."""
        self._tokenize = tokenize
        self._known = known
        self._held = ""

    async def push(self, delta: Delta) -> list[Worded]:
        """What is certain after this delta; all of it after one with a finish reason. Raises EngineError."""
        found: list[Worded] = []
        named = delta.tokens if "".join(token.text for token in delta.tokens) == delta.text else ()
        singles = [await self._single(token) for token in named if token.text]
        if named and None not in singles:
            found += await self._release(len(self._held))
            found += [single for single in singles if single is not None]
        else:
            self._held += delta.text
            found += await self._release(_cut(self._held))
        if delta.finish_reason is not None:
            found += await self._release(len(self._held))
        return found

    async def _single(self, token: UpstreamToken) -> Worded | None:
        tokens = await self._lookup(token.text)
        if len(tokens) != 1 or tokens[0][1] != token.text.encode():
            return None
        tops = []
        for text, logprob in token.top:
            of_top = await self._lookup(text)
            if len(of_top) == 1:
                tops.append(TopToken(of_top[0][0], logprob, of_top[0][1]))
        return Worded(*tokens[0], token.logprob, tuple(tops))

    async def _lookup(self, text: str) -> Tokens:
        if (known := self._known.get(text)) is None:
            known = await self._exact(text)
            if len(self._known) < _MAX_KNOWN and len(text) <= MAX_HELD:
                self._known[text] = known
        return known

    async def _release(self, count: int) -> list[Worded]:
        text, self._held = self._held[:count], self._held[count:]
        if not text:
            return []
        return [Worded(token, piece, NOT_STATED) for token, piece in await self._exact(text)]

    async def _exact(self, text: str) -> Tokens:
        """Tokens that spell this text, also for tokenizers that put a space before every text."""
        wanted = text.encode()
        attempts = [text, *([text[1:]] if text.startswith(" ") else []), "\n" + text]
        for attempt in attempts:
            tokens = await self._tokenize(attempt)
            while tokens and len(_spelling(tokens)) > len(wanted):
                tokens = tokens[1:]
            if _spelling(tokens) == wanted:
                return tokens
        raise GenerationError("engine_failed", "the answer cannot be written in this model's tokens")


def _spelling(tokens: Tokens) -> bytes:
    return b"".join(piece for _, piece in tokens)


def _cut(text: str) -> int:
    """Where the last word begins, with its space: tokens never reach across."""
    position = len(text)
    while (position := text.rfind(" ", 0, position)) > 0:
        if not text[position - 1].isspace():
            return position
    return len(text) if len(text) > MAX_HELD else 0
