"""Short ways to ask an engine, for its tests."""

from typing import Any

from provider.backend import Done, Generation, GenerationRequest, Prompt, Token
from provider.engine.client import EngineClient

Answer = tuple[list[Token], Done]


def ask(text: str) -> list[dict[str, Any]]:
    """One message of a user."""
    return [{"role": "user", "content": text}]


async def collect(generation: Generation) -> Answer:
    """All tokens of a generation, and its end."""
    tokens: list[Token] = []
    async for event in generation:
        if isinstance(event, Done):
            return tokens, event
        tokens.append(event)
    raise AssertionError("no end")


async def run(engine: EngineClient, text: str, max_tokens: int = 24, **options: Any) -> Answer:
    """The answer to one message; greedy unless `options` say otherwise."""
    request = GenerationRequest(Prompt(ask(text)), max_tokens, **{"temperature": 0.0, **options})
    return await collect(await engine.generate(request))


def ids(answer: Answer) -> list[int]:
    """The tokens of an answer."""
    return [token.token for token in answer[0]]


def text_of(answer: Answer) -> str:
    """What an answer shows."""
    tokens, done = answer
    return "".join(token.text for token in tokens) + done.text
