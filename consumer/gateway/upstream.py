"""Other OpenAI-compatible servers as routes: `upstream/<name>/<model>`."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from consumer.gateway.app_request import CHAT
from consumer.gateway.errors import bad_request
from consumer.gateway.events import Asked, Chunk, Delivered, Part
from consumer.gateway.settings import UpstreamSettings
from consumer.gateway.upstream_entries import deliver
from consumer.gateway.upstream_key import read_key
from consumer.gateway.upstream_server import OpenAIServer

_CHARACTERS_PER_TOKEN = 4


class Upstreams:
    """All of them."""

    def __init__(self, settings: Mapping[str, UpstreamSettings], idle_s: float) -> None:
        """Raises ConfigUnusable if a key is missing."""
        self._models = {name: tuple(one.models) for name, one in settings.items()}
        self._servers = {name: OpenAIServer(one.url, read_key(one), idle_s) for name, one in settings.items()}

    def models(self) -> list[tuple[str, str]]:
        """Names with each of their models."""
        return [(name, model) for name, models in self._models.items() for model in models]

    async def answer(self, asked: Asked, delivered: Delivered, name: str, model: str) -> AsyncGenerator[Part, None]:
        """The answer, or what goes on after `delivered`, which grows with it. Raises RouteFailed."""
        if model not in self._models.get(name, ()):
            raise bad_request(f"there is no model upstream/{name}/{model}", code="model_not_found", status=404)
        body = {**(continued(asked, delivered) if delivered.text else asked.content), "model": model}
        delivered.tokens, delivered.tokenizer_sha256 = [], ""
        parts = self._servers[name].answer(f"upstream/{name}/{model}", asked.path, body)
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, Chunk):
                    deliver(delivered, part)
                yield part

    async def close(self) -> None:
        """Closes all connections."""
        for server in self._servers.values():
            await server.close()


def continued(asked: Asked, delivered: Delivered) -> dict[str, Any]:
    """The request that goes on: what was delivered begins the assistant's message, or ends the prompt."""
    content = {**asked.content, **room_left(asked, delivered)}
    if asked.path == CHAT:
        content["messages"] = [*content["messages"], {"role": "assistant", "content": delivered.text}]
    else:
        content["prompt"] = str(content["prompt"]) + delivered.text
    return content


def room_left(asked: Asked, delivered: Delivered) -> dict[str, int]:
    """The token limits that the application gave, less what it has."""
    used = len(delivered.tokens) or len(delivered.text) // _CHARACTERS_PER_TOKEN
    limits = {name: asked.content.get(name) for name in ("max_tokens", "max_completion_tokens")}
    return {name: max(1, limit - used) for name, limit in limits.items() if isinstance(limit, int)}
