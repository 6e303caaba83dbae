"""A Dispatcher that brings what a test gives it, behind the real app on a real socket."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from consumer.gateway.app import create_app
from consumer.gateway.events import Asked, FailureClass, Leg, Part, Routed, RouteFailed
from consumer.gateway.settings import GatewaySettings
from consumer.tls import unchecked_context
from tests.support.serving import serve

KEY = "claw-test-key"
ROUTE = "provider/7/model"
LEG = Leg(ROUTE, "finished", prompt_tokens=5, cached_tokens=2, completion_tokens=3, cost=1200, symbol="USDC")
Step = Routed | Part | RouteFailed | asyncio.Event


@dataclass
class ScriptedDispatcher:
    """Brings the steps of `script`: failures are raised, events waited for."""

    script: Sequence[Step] = ()
    asked: list[Asked] = field(default_factory=list)
    closed: int = 0
    names: list[str] = field(default_factory=lambda: ["model", "local/mine"])

    async def answer(self, asked: Asked) -> AsyncIterator[Routed | Part]:
        """The script."""
        self.asked.append(asked)
        try:
            for step in self.script:
                if isinstance(step, RouteFailed):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.closed += 1

    def models(self) -> list[str]:
        """Some names."""
        return self.names

    async def explain(self, asked: Asked) -> dict[str, Any]:
        """What was asked for."""
        return {"routes": [{"route": ROUTE, "for": asked.model}]}

    def status(self) -> dict[str, Any]:
        """Nothing much."""
        return {"routes": [], "leases": [], "budgets": []}


@dataclass(frozen=True)
class OneKey:
    """The key that is known."""

    key_id: str = "k1"
    models: tuple[str, ...] = ()

    def allows(self, model: str) -> bool:
        """As `ApiKey` says it."""
        return not self.models or model in self.models


@dataclass
class OneKeyOnly:
    """Knows `KEY`."""

    key: OneKey = field(default_factory=OneKey)

    def identify(self, authorization: str | None) -> OneKey:
        """By the header."""
        if authorization != f"Bearer {KEY}":
            raise RouteFailed(FailureClass.AUTH, "no such key", status=401, code="invalid_api_key")
        return self.key


@dataclass
class Served:
    """The running app."""

    dispatcher: ScriptedDispatcher
    url: str

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """With the key, unless another header is given for it."""
        async with httpx.AsyncClient(verify=unchecked_context()) as client:
            return await client.get(self.url + path, headers={"Authorization": f"Bearer {KEY}", **headers})

    async def post(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        """With the key."""
        async with httpx.AsyncClient(verify=unchecked_context()) as client:
            sent = {"Authorization": f"Bearer {KEY}", **headers}
            return await client.post(self.url + path, content=content, headers=sent)


@asynccontextmanager
async def served(settings: GatewaySettings | None = None, key: OneKey | None = None) -> AsyncIterator[Served]:
    """The app with a scripted dispatcher."""
    dispatcher = ScriptedDispatcher()
    app = create_app(dispatcher, OneKeyOnly(key or OneKey()), settings or GatewaySettings())
    async with serve(app) as url:
        yield Served(dispatcher, url)
