"""What the app needs of the gateway's other parts."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from consumer.gateway.events import Asked, Part


class RouteTaken(Protocol):
    """Says which route answers from here on; again after each failover."""

    @property
    def route(self) -> str:
        """Its name."""

    @property
    def why(self) -> str:
        """Why it and not another."""

    @property
    def attempt(self) -> int:
        """From 1."""


class Dispatching(Protocol):
    """Answers from whichever route is best."""

    def answer(self, asked: Asked) -> AsyncIterator[RouteTaken | Part]:
        """Closing the iterator cancels. Raises RouteFailed."""

    def models(self) -> list[str]:
        """Names that can be asked for."""

    async def explain(self, asked: Asked) -> dict[str, Any]:
        """What would be done with this request, and why."""

    def status(self) -> dict[str, Any]:
        """Routes, leases and budgets, for people."""


class Key(Protocol):
    """Who asks."""

    @property
    def key_id(self) -> str:
        """The virtual key's name in the records."""

    def allows(self, model: str) -> bool:
        """Whether it may ask for this model."""


class Keys(Protocol):
    """The virtual keys."""

    def identify(self, authorization: str | None) -> Key:
        """By the Authorization header. Raises RouteFailed with status 401."""
