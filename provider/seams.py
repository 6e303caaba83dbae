"""What the service asks of others, if they are there: whether it is open, what it may serve, who counts."""

from collections.abc import Iterable
from typing import Protocol


class Gate(Protocol):
    """Whether the machine's owner lends it out now."""

    def check_open(self) -> None:
        """Raises Refusal when no new request may start."""


class ContentPolicy(Protocol):
    """What the owner does not want to serve."""

    def check(self, texts: Iterable[str]) -> None:
        """Raises Refusal for what the policy refuses."""


class Metrics(Protocol):
    """Counts requests. Times in milliseconds, units in tokens."""

    def request_refused(self, code: str) -> None:
        """A request was not admitted."""

    def request_started(self, model: str) -> None:
        """A request was admitted."""

    def request_ended(
        self,
        model: str,
        outcome: str,
        ttft_ms: int,
        duration_ms: int,
        units_in: int,
        units_cached: int,
        units_out: int,
    ) -> None:
        """A request has its final receipt; `outcome` is its finish reason, or the code of its failure."""


class Silent:
    """Metrics of a worker that nobody watches."""

    def request_refused(self, code: str) -> None:
        """Forgets it."""

    def request_started(self, model: str) -> None:
        """Forgets it."""

    def request_ended(
        self,
        model: str,
        outcome: str,
        ttft_ms: int,
        duration_ms: int,
        units_in: int,
        units_cached: int,
        units_out: int,
    ) -> None:
        """Forgets it."""
