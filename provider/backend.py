"""What turns prompts into tokens, as the service sees it: our own engine, or somebody else's server.

Everything that is billed passes through these types, so that metering is the same whatever serves.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from provider.offers import Offer  # the engine's process loads this module, and needs no offers


@dataclass(frozen=True)
class Prompt:
    """What is asked: exactly one of `messages` (rendered by the model's chat template), `text`, `tokens`.

    `tools` go to the chat template with the messages.
    """

    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    tokens: list[int] | None = None
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class JsonOutput:
    """An answer that is JSON of this schema ({} is any object), between two fixed texts."""

    schema: dict[str, Any]
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class GenerationRequest:
    """One generation. `seed` None draws one; `cache_key` empty reuses nothing.

    `logprobs` is None, or how many likeliest tokens come with each generated one (0 to 20).
    """

    prompt: Prompt
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None
    output: JsonOutput | None = None
    cache_key: str = ""


@dataclass(frozen=True)
class TopToken:
    """One of the likeliest tokens at a place; `logprob` in nats, `piece` its bytes."""

    token: int
    logprob: float
    piece: bytes


@dataclass(frozen=True)
class Token:
    """One generated token; `logprob` in nats under the model before temperature, `text` what may be shown by now.

    `piece` (the token's own bytes) and `top` are filled only when the request asked for `logprobs`.
    """

    token: int
    text: str
    logprob: float
    piece: bytes = b""
    top: tuple[TopToken, ...] = ()


@dataclass(frozen=True)
class Done:
    """The end of a generation: why, the text still held back, counts in tokens, times in milliseconds."""

    finish_reason: str
    text: str
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_ms: int
    prompt_ms: int
    generate_ms: int


class Generation(Protocol):
    """A running request: iterate for `Token`s, ending with one `Done`; raises EngineError when it fails."""

    prompt_tokens: int | None
    cached_tokens: int | None

    async def pause(self) -> None:
        """Stops decoding; tokens already on their way still come."""

    async def resume(self) -> None:
        """Goes on after `pause`."""

    async def cancel(self) -> None:
        """Asks for an early end; the stream still ends with a `Done`."""

    def __aiter__(self) -> AsyncIterator[Token | Done]: ...


class Backend(Protocol):
    """One model, ready to answer. Every method raises EngineError."""

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""

    @property
    def has_tools(self) -> bool:
        """Whether the chat template takes tools."""

    @property
    def dimensions(self) -> int:
        """Components of an embedding."""

    async def count(self, prompt: Prompt) -> int:
        """Tokens of the prompt as the model will read it."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Starts a generation; later errors come by iteration."""

    async def embed(self, prompts: list[Prompt]) -> list[list[float]]:
        """One vector of unit length for each prompt."""


class Hold(Protocol):
    """A backend that stays in memory until it is let go."""

    backend: Backend

    def release(self) -> None:
        """Lets it go; again is no fault."""


class Backends(Protocol):
    """All models of a worker."""

    async def acquire(self, offer: "Offer") -> Hold:
        """The backend of an offer's model, loading it if need be. Raises EngineError, Refusal `busy` without room."""

    def is_ready(self) -> bool:
        """Whether every model could be served now or after loading it."""
