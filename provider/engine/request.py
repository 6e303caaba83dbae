"""One generation, as the scheduler takes it."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """What one generation asks for.

    `cache_key` is empty when nothing may be reused; `logprobs` is None or how many likeliest tokens come with each;
    `grammar` is None or the GBNF the answer keeps to.
    """

    id: int
    prompt: list[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: list[str]
    cache_key: str
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None
    grammar: str | None = None
    received: float = field(default_factory=time.monotonic)
