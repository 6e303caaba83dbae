"""Which routes to try for a request, in which order, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumer.gateway.events import Leg, RouteFailed
from consumer.routing.breaker import Breaker
from consumer.routing.catalogue import Candidate, Catalogue
from consumer.routing.health import Health
from consumer.routing.limits import Limits
from consumer.routing.names import Wanted
from consumer.routing.routes import Excluded as Excluded
from consumer.routing.routes import Needs as Needs
from consumer.routing.routes import Plan as Plan
from consumer.routing.routes import Route as Route


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
        raise NotImplementedError

    def plan(self, wanted: Wanted, needs: Needs) -> Plan:
        """Raises RouteFailed(BAD_REQUEST, model_not_found) for a name that nothing here serves. Has no side effects."""
        raise NotImplementedError

    def begin(self, route: Route) -> bool:
        """To be called right before a route is tried; False if it must be skipped: another trial is under way."""
        raise NotImplementedError

    def record(self, route: Route, outcome: Leg | RouteFailed) -> None:
        """What became of a route that was begun."""
        raise NotImplementedError
