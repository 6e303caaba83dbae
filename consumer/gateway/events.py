"""What a route brings while it answers, the same for market, local and upstream routes. Amounts in token base units."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from protocol.stream import StreamToken


class FailureClass(StrEnum):
    """Why a route failed; each class has its own cooldown, see `consumer.routing.breaker`.

    `OURS` is a fault of this machine, such as a full disk.
    """

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    OVERLOAD = "overload"
    AUTH = "auth"
    BAD_OUTPUT = "bad_output"
    MONEY = "money"
    BAD_REQUEST = "bad_request"
    OURS = "ours"


class RouteFailed(Exception):  # noqa: N818 - named for what happened
    """A route gave no answer, or broke off. `BAD_REQUEST` is the application's fault: no other route is tried.

    `status`, `code` and `param` are what the route itself said, where it said something; `retry_after_s` is when it may
    be asked again. `leg` is what it did before it failed, if it had begun.
    """

    def __init__(
        self,
        failure: FailureClass,
        message: str,
        *,
        status: int = 502,
        code: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
        leg: "Leg | None" = None,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.status = status
        self.code = code or failure.value
        self.param = param
        self.retry_after_s = retry_after_s
        self.leg = leg


@dataclass(frozen=True)
class Asked:
    """An application's request: its path below the base URL's host, JSON body, and the virtual key that asks."""

    path: str
    content: dict[str, Any]
    key_id: str

    @property
    def model(self) -> str:
        """The model name as the application wrote it."""
        return str(self.content.get("model", ""))

    @property
    def is_stream(self) -> bool:
        """Whether the answer comes as server-sent events."""
        return bool(self.content.get("stream"))


@dataclass
class Delivered:
    """What the application has of the first choice already; `tokens` are ids of the tokenizer with this digest."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    tokenizer_sha256: str = ""


@dataclass(frozen=True)
class Chunk:
    """Entries of `choices` that came together, as a stream of the asked path has them (`delta`, or `text` for
    completions).

    `tokens` are those that a market route gave for them.
    """

    entries: list[dict[str, Any]]
    tokens: Sequence[StreamToken] = ()


@dataclass(frozen=True)
class Vectors:
    """The `data` of an embedding's answer."""

    data: list[dict[str, Any]]


@dataclass(frozen=True)
class Leg:
    """One route's part in an answer. `ended` is "finished", or why it ended before.

    `cost` is in base units of the token `symbol`, 0 for local and upstream routes; times are in milliseconds.
    """

    route: str
    ended: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0
    symbol: str = ""
    ttft_ms: int = 0
    duration_ms: int = 0
    lease_id: bytes = b""
    seq: int = -1


@dataclass(frozen=True)
class Routed:
    """Which route answers from here on, and why it was chosen; `attempt` counts from 0."""

    route: str
    why: str
    attempt: int


Part = Chunk | Vectors | Leg
"""What a route yields: chunks or vectors, and at its end the leg it was."""
