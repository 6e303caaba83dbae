"""What a request asks for, once its route has been understood; the service knows no other words."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from protocol.ids import OfferKind
from provider.backend import GenerationRequest, Prompt

SEEDS = 2**32 - 1
"""Seeds beyond this many start again; the engine takes the next number for "draw one"."""


@dataclass(frozen=True)
class Generate:
    """Answers to one prompt. `request.max_tokens` is left to the service; `wanted` is what the client allows.

    `texts` is everything a client wrote that reaches the model, for the content policy.
    """

    model: str
    request: GenerationRequest
    texts: tuple[str, ...]
    wanted: int | None = None
    choices: int = 1

    @property
    def kind(self) -> OfferKind:
        """The kind of offer that serves it."""
        return OfferKind.INFERENCE

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """What is billed as input."""
        return (self.request.prompt,)

    def requests(self, max_tokens: int, cache_key: str) -> Iterator[GenerationRequest]:
        """One request for each choice. A given seed is counted up, else all choices would be the same."""
        given = self.request
        for choice in range(self.choices):
            seed = None if given.seed is None else (given.seed + choice) % SEEDS
            yield replace(given, max_tokens=max_tokens, seed=seed, cache_key=cache_key)


@dataclass(frozen=True)
class Embed:
    """One vector for each prompt. `dimensions` is how many the client expects, None for as many as there are."""

    model: str
    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    dimensions: int | None = None

    @property
    def kind(self) -> OfferKind:
        """The kind of offer that serves it."""
        return OfferKind.EMBEDDING


Work = Generate | Embed
