"""What an engine may still send for one request: which frames, how many, how large. It may have been taken over.

A frame that is not expected breaks the protocol and ends the engine. So nothing that is kept of an answer is larger
than what was asked for, however fast it comes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from provider.backend import Done, Token, TopToken
from provider.engine.errors import GenerationError
from provider.engine.frames import MAX_FRAME_BYTES, Frame, FrameError

MAX_PIECE_BYTES = 1_024
"""Of one token; the text of an answer has no more characters than its tokens have bytes."""
MAX_MESSAGE = 2_000
_MOST = 2**31 - 1
_LONGEST_MS = 2**53
_LEAST_LOGPROB, _HIGHEST_LOGPROB = -1e7, 1.0  # rounding goes a little beyond 0
_REASONS = ("stop", "length", "cancelled")
_CODES = (
    "prompt_too_long",
    "bad_messages",
    "bad_request",
    "bad_schema",
    "overloaded",
    "engine_failed",
)
_TIMES = ("queue_ms", "prompt_ms", "generate_ms")


@dataclass(frozen=True)
class Started:
    """A generation has its place; both counts in tokens."""

    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Reply:
    """An answer of one frame, or one vector of several."""

    value: Any


Item = Token | Done | Started | Reply | GenerationError


class Expected(ABC):
    """The frames of one request. `left` is how many may still come."""

    def __init__(self, most: int) -> None:
        self.left = most

    def read(self, frame: Frame) -> Item:
        """What the frame says. Raises FrameError for one that may not come now."""
        if self.left <= 0:
            raise FrameError("more frames came than were asked for")
        self.left -= 1
        if frame.get("ev") == "error":
            self.left = 0
            return _error(frame)
        return self._read(frame)

    @abstractmethod
    def _read(self, frame: Frame) -> Item: ...


class GenerationFrames(Expected):
    """`started`, up to `tokens` tokens, `done`; each token with `top` others."""

    def __init__(self, tokens: int, top: int | None) -> None:
        self._tokens = max(1, tokens)
        self._top = top
        self._started: Started | None = None
        self._generated = 0
        self._room = 0
        super().__init__(self._tokens + 2)

    def _read(self, frame: Frame) -> Item:
        match frame.get("ev"):
            case "started" if self._started is None:
                prompt = whole(frame, "prompt_tokens")
                self._started = Started(prompt, whole(frame, "cached_tokens", prompt))
                return self._started
            case "token" if self._started is not None and self._generated < self._tokens:
                self._generated += 1
                self._room += MAX_PIECE_BYTES
                return self._token(frame)
            case "done":
                self.left = 0
                return self._done(frame)
        raise FrameError("a frame came that does not follow the one before")

    def _token(self, frame: Frame) -> Token:
        top: tuple[TopToken, ...] = ()
        if self._top is not None:
            found = frame.get("top", [])
            if not isinstance(found, list) or len(found) > self._top:
                raise FrameError(f"top holds no list of at most {self._top}")
            top = tuple(map(_top, found))
        elif "top" in frame or "piece" in frame:
            raise FrameError("log-probabilities came that were not asked for")
        logprob = _logprob(frame.get("logprob"))
        return Token(whole(frame, "token"), self._text(frame), logprob, _piece(frame.get("piece", "")), top)

    def _done(self, frame: Frame) -> Done:
        prompt = whole(frame, "prompt_tokens")
        cached, generated = whole(frame, "cached_tokens", prompt), whole(frame, "generated_tokens")
        if self._started not in (None, Started(prompt, cached)) or generated != self._generated:
            raise FrameError("the end counts other tokens than came")
        if (reason := frame.get("finish_reason")) not in _REASONS:
            raise FrameError("the end has no known reason")
        times = [whole(frame, name, _LONGEST_MS) for name in _TIMES]
        return Done(str(reason), self._text(frame), prompt, cached, generated, *times)

    def _text(self, frame: Frame) -> str:
        found = text(frame, "text", self._room)
        self._room -= len(found)
        return found


class CountFrame(Expected):
    """`counted`."""

    def __init__(self) -> None:
        super().__init__(1)

    def _read(self, frame: Frame) -> Item:
        return Reply(whole(_of(frame, "counted"), "tokens"))


class RenderFrame(Expected):
    """`rendered`."""

    def __init__(self) -> None:
        super().__init__(1)

    def _read(self, frame: Frame) -> Item:
        return Reply(text(_of(frame, "rendered"), "text", MAX_FRAME_BYTES))


class TokenizeFrame(Expected):
    """`tokenized`: pairs of a token and its bytes, for a text of so many bytes."""

    def __init__(self, size: int) -> None:
        self._most = size + 2  # some models begin with a space
        super().__init__(1)

    def _read(self, frame: Frame) -> Item:
        tokens, pieces = _of(frame, "tokenized").get("tokens"), frame.get("pieces")
        if not isinstance(tokens, list) or not isinstance(pieces, list) or len(tokens) != len(pieces):
            raise FrameError("tokens and pieces are no two lists of one length")
        if len(tokens) > self._most:
            raise FrameError(f"there are {len(tokens)} tokens for {self._most} bytes")
        return Reply([(_whole(token, "a token"), _piece(piece)) for token, piece in zip(tokens, pieces, strict=True)])


class EmbedFrames(Expected):
    """`embedding` for each of so many prompts, in order, with so many dimensions; then `embedded`."""

    def __init__(self, prompts: int, dimensions: int) -> None:
        self._prompts = prompts
        self._dimensions = dimensions
        self._next = 0
        super().__init__(prompts + 1)

    def _read(self, frame: Frame) -> Item:
        if self._next == self._prompts:
            _of(frame, "embedded")
            return Reply(None)
        vector = _of(frame, "embedding").get("vector")
        if whole(frame, "index") != self._next:
            raise FrameError(f"the vector of prompt {self._next} is missing")
        self._next += 1
        if not isinstance(vector, list) or len(vector) != self._dimensions:
            raise FrameError(f"the vector has not {self._dimensions} components")
        if not all(type(each) in (float, int) and abs(each) <= 2 for each in vector):
            raise FrameError("the vector is not of unit length")
        return Reply(vector)


def whole(frame: Frame, name: str, most: int = _MOST) -> int:
    """The whole number under `name`, 0 to `most`. Raises FrameError."""
    return _whole(frame.get(name), name, most)


def text(frame: Frame, name: str, most: int) -> str:
    """The text under `name`, of at most so many characters. Raises FrameError."""
    found = frame.get(name)
    if not isinstance(found, str) or len(found) > most:
        raise FrameError(f"{name} is no text of at most {most} characters")
    return found


def message(frame: Frame) -> str:
    """What the engine says of an error, fit for a log."""
    found = str(frame.get("message"))[:MAX_MESSAGE]
    return "".join(each if each.isprintable() else " " for each in found)


def _of(frame: Frame, kind: str) -> Frame:
    if frame.get("ev") != kind:
        raise FrameError(f"a frame came that is not {kind}")
    return frame


def _error(frame: Frame) -> GenerationError:
    if (code := frame.get("code")) not in _CODES:
        raise FrameError("an error has no known code")
    return GenerationError(str(code), message(frame))


def _whole(value: Any, name: str, most: int = _MOST) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise FrameError(f"{name} is no whole number from 0 to {most}")
    return value


def _logprob(value: Any) -> float:
    if type(value) not in (float, int) or not _LEAST_LOGPROB <= value <= _HIGHEST_LOGPROB:
        raise FrameError("a log-probability is no such number")
    return float(value)


def _piece(value: Any) -> bytes:
    if not isinstance(value, str) or len(value) > MAX_PIECE_BYTES:
        raise FrameError(f"a token is no text of at most {MAX_PIECE_BYTES} bytes")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise FrameError("a token has characters that are no bytes") from error


def _top(value: Any) -> TopToken:
    if not isinstance(value, list) or len(value) != 3:
        raise FrameError("a likely token is not three values")
    return TopToken(_whole(value[0], "a likely token"), _logprob(value[1]), _piece(value[2]))
