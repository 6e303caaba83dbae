"""A plan: the routes to try for one request in order, those left out, and why."""

from dataclasses import dataclass, field
from typing import Any

from consumer.routing.catalogue import Candidate
from consumer.routing.names import RouteKind
from protocol.ids import OfferKind


@dataclass(frozen=True)
class Needs:
    """What a request takes; without `prompt_tokens` the prompt's length is not known yet."""

    kind: OfferKind = OfferKind.INFERENCE
    prompt_tokens: int | None = None
    max_tokens: int = 0
    needs_tools: bool = False
    needs_json: bool = False


@dataclass(frozen=True)
class Route:
    """One way to an answer. `name` is unique among local and upstream routes, and is what health is kept for.

    `candidate` is set for market routes, `local` for local ones, `upstream` and `model` for upstream ones. `score` is
    out of 1 000 000 (0 for fallbacks, which stand in their configured order), `why` its parts.
    """

    name: str
    kind: RouteKind
    candidate: Candidate | None = None
    local: str | None = None
    upstream: str | None = None
    model: str | None = None
    score: int = 0
    why: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def reason(self) -> str:
        """Why it stands where it does, in a line."""
        return f"score {self.score}" if self.kind is RouteKind.MARKET else f"{self.kind.value} fallback"


@dataclass(frozen=True)
class Excluded:
    """A route that must not be used now. `ready_in_s` is when a cooldown alone would end, None for other reasons."""

    route: Route
    reasons: tuple[str, ...]
    ready_in_s: float | None = None


@dataclass(frozen=True)
class Plan:
    """`routes` are to be tried in this order."""

    routes: list[Route]
    excluded: list[Excluded]

    @property
    def retry_after_s(self) -> float | None:
        """When the first route that only cools down may be asked again."""
        return min((found.ready_in_s for found in self.excluded if found.ready_in_s is not None), default=None)

    def explain(self) -> dict[str, Any]:
        """For `x-clawmarket-route` and `gateway explain`."""
        return {
            "routes": [_explained(route) for route in self.routes],
            "excluded": [{**_explained(found.route), "reasons": list(found.reasons)} for found in self.excluded],
        }


def _explained(route: Route) -> dict[str, Any]:
    offer: dict[str, Any] = {}
    if route.candidate is not None:
        offer = {"offer": route.candidate.offer.offer_id, "sandbox": route.candidate.sandbox}
    return {"name": route.name, "kind": route.kind.value, **offer, "score": route.score, "why": route.why}
