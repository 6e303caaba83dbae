"""Which routes to try for a request, in which order, and why.

Offers of the market come first, the best before the others; then local models, then upstreams, each in the configured
order. A name that pins one route gets that route alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from consumer.gateway.events import Leg, RouteFailed
from consumer.routing.breaker import Breaker
from consumer.routing.catalogue import Candidate, Catalogue
from consumer.routing.health import FINISHED, Health
from consumer.routing.limits import Limits
from consumer.routing.names import RouteKind, Wanted, unknown_model
from consumer.routing.routes import Excluded, Needs, Plan, Route
from consumer.routing.score import Cost, Facts, cheapest, score
from protocol.ids import OfferKind

__all__ = ["Excluded", "Fallbacks", "Needs", "Plan", "Route", "Router"]

LEAST_TRUST = 250
"""Below these thousandths a route is not used at all."""
MAX_REMEMBERED = 256
"""Model names whose candidates are remembered; applications may write anything."""


@dataclass(frozen=True)
class Fallbacks:
    """What is configured beside the market, in order: names of local models, and (upstream, model) pairs."""

    local: Sequence[str] = ()
    upstream: Sequence[tuple[str, str]] = ()


class Router:
    """`has_room` says whether a lease is open that covers an amount; `exposure` how much of the money in leases lies
    with a candidate's provider, in thousandths. Neither may block."""

    def __init__(
        self,
        catalogue: Catalogue,
        health: Health,
        breaker: Breaker,
        limits: Limits,
        fallbacks: Fallbacks,
        *,
        has_room: Callable[[Candidate, int], bool],
        exposure: Callable[[Candidate], int],
    ) -> None:
        self._catalogue = catalogue
        self._health = health
        self._breaker = breaker
        self._limits = limits
        self._local = [Route(f"local/{name}", RouteKind.LOCAL, local=name) for name in fallbacks.local]
        self._upstream = [
            Route(f"upstream/{name}/{model}", RouteKind.UPSTREAM, upstream=name, model=model)
            for name, model in fallbacks.upstream
        ]
        self._has_room = has_room
        self._exposure = exposure
        self._offered: dict[tuple[Wanted, OfferKind], list[tuple[Route, tuple[str, ...]]]] = {}
        self._version = -1

    def plan(self, wanted: Wanted, needs: Needs) -> Plan:
        """Raises RouteFailed(BAD_REQUEST, model_not_found) for a name that nothing here serves. Has no side effects."""
        offered = self._market(wanted, needs.kind) if wanted.kind is RouteKind.MARKET else []
        fallbacks = list(self._fallbacks(wanted, needs.kind))
        if not offered and not self._may_exist(wanted):
            raise unknown_model(_name(wanted))
        usable: list[Route] = []
        excluded: list[Excluded] = []
        for route, reasons in offered:
            left_out = self._excluded(route, reasons, needs)
            if left_out is None:
                usable.append(route)
            else:
                excluded.append(left_out)
        routes = self._ranked(usable, wanted, needs)
        for route in fallbacks:
            left_out = self._excluded(route, (), needs)
            if left_out is None:
                routes.append(route)
            else:
                excluded.append(left_out)
        return Plan(routes, excluded)

    def begin(self, route: Route) -> bool:
        """To be called right before a route is tried; False if it must be skipped: it cools down, or is on trial."""
        return self._breaker.begin(route.name)

    def record(self, route: Route, outcome: Leg | RouteFailed) -> None:
        """What became of a route that was begun."""
        if isinstance(outcome, RouteFailed):
            self._health.failed(route.name, outcome.failure, outcome.code)
            self._breaker.failed(route.name, outcome.failure, outcome.retry_after_s)
            return
        self._health.answered(route.name, outcome)
        if outcome.ended == FINISHED:
            self._breaker.succeeded(route.name)
        else:
            self._breaker.abandoned(route.name)

    def _market(self, wanted: Wanted, kind: OfferKind) -> list[tuple[Route, tuple[str, ...]]]:
        """The offers of a name with the reasons against each that hold for every request."""
        if self._version != self._catalogue.version or len(self._offered) > MAX_REMEMBERED:
            self._offered.clear()
            self._version = self._catalogue.version
        if (wanted, kind) not in self._offered:
            self._offered[wanted, kind] = [
                (
                    Route(candidate.name, RouteKind.MARKET, candidate=candidate, model=candidate.model),
                    tuple(dict.fromkeys(self._against(candidate, kind))),
                )
                for candidate in self._catalogue.candidates
                if wanted.provider in (None, candidate.provider)
                and wanted.model in (None, candidate.model)
                and (wanted.model is not None or candidate.kind is kind)
            ]
        return self._offered[wanted, kind]

    def _against(self, candidate: Candidate, kind: OfferKind) -> Iterator[str]:
        if candidate.kind is not kind:
            yield f"it is offered for {candidate.kind.label}, not for {kind.label}"
        yield from self._limits.of_offer(candidate)

    def _excluded(self, route: Route, reasons: tuple[str, ...], needs: Needs) -> Excluded | None:
        if route.candidate is not None:
            reasons = (*reasons, *self._limits.of_request(route.candidate, needs))
            if self._health.of(route.name).expected(self._health.now()).trust < LEAST_TRUST:
                reasons = (*reasons, self._health.of(route.name).distrusted_for)
        cooldown = self._breaker.cooldown(route.name)
        if cooldown is None:
            return Excluded(route, reasons) if reasons else None
        told = (*reasons, f"it cools down for {cooldown.left_s:.0f} s after: {cooldown.failure.value}")
        return Excluded(route, told, None if reasons else cooldown.left_s)

    def _ranked(self, routes: list[Route], wanted: Wanted, needs: Needs) -> list[Route]:
        priced = [(route, route.candidate, Cost.of(route.candidate, needs)) for route in routes if route.candidate]
        lowest = cheapest((candidate.offer.terms.token, cost) for _, candidate, cost in priced)
        now = self._health.now()
        ranked: list[tuple[int, int, int, Route]] = []
        for route, candidate, cost in priced:
            facts = Facts(
                price=cost.share_of(lowest[candidate.offer.terms.token]),
                expected=self._health.of(route.name).expected(now),
                stake=candidate.stake,
                exposure=self._exposure(candidate),
                has_lease=self._has_room(candidate, cost.units),
            )
            points, why = score(wanted.preference, facts)
            scored = Route(route.name, route.kind, candidate, model=route.model, score=points, why=why)
            ranked.append((-points, candidate.provider, candidate.offer.offer_id, scored))
        return [route for *_, route in sorted(ranked, key=lambda each: each[:3])]

    def _fallbacks(self, wanted: Wanted, kind: OfferKind) -> Iterator[Route]:
        """Local models and upstreams, those of the wanted name first.

        Vectors of different models don't mix: an embedding falls back only to the model of its name.
        """
        if wanted.kind is RouteKind.LOCAL:
            yield from (route for route in self._local if route.local == wanted.name)
        elif wanted.kind is RouteKind.UPSTREAM:
            yield from (
                route for route in self._upstream if (route.upstream, route.model) == (wanted.name, wanted.model)
            )
        elif wanted.provider is None:
            for routes in (self._local, self._upstream):
                yield from (route for route in routes if _serves(route, wanted))
                if kind is not OfferKind.EMBEDDING or wanted.model is None:
                    yield from (route for route in routes if not _serves(route, wanted))

    def _may_exist(self, wanted: Wanted) -> bool:
        """Whether the name means something here, or might if all of the market could be seen."""
        if wanted.kind is RouteKind.MARKET:
            known = wanted.provider is None and any(_serves(route, wanted) for route in self._local + self._upstream)
            return wanted.model is None or known or not self._catalogue.is_complete
        return any(self._fallbacks(wanted, OfferKind.INFERENCE))


def _serves(route: Route, wanted: Wanted) -> bool:
    return wanted.model is not None and wanted.model in (route.local, route.model)


def _name(wanted: Wanted) -> str:
    if wanted.kind is RouteKind.LOCAL:
        return f"local/{wanted.name}"
    if wanted.kind is RouteKind.UPSTREAM:
        return f"upstream/{wanted.name}/{wanted.model}"
    return f"provider/{wanted.provider}/{wanted.model}" if wanted.provider is not None else str(wanted.model)
