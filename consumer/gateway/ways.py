"""Every way to an answer behind one call."""

from collections.abc import AsyncGenerator

from consumer.gateway.events import Asked, Delivered, Part
from consumer.gateway.local import Locals
from consumer.gateway.market import MarketRoutes
from consumer.gateway.upstream import Upstreams
from consumer.routing.routes import Route


class Ways:
    """The market, local models and upstreams."""

    def __init__(self, market: MarketRoutes, local: Locals, upstream: Upstreams) -> None:
        self._market = market
        self._local = local
        self._upstream = upstream

    def answer(self, route: Route, asked: Asked, delivered: Delivered) -> AsyncGenerator[Part, None]:
        """One route's answer, or what follows what was delivered; ends with its leg. Raises RouteFailed."""
        if route.candidate is not None:
            return self._market.answer(asked, delivered, route.candidate, route.name)
        if route.local is not None:
            return self._local.answer(asked, delivered, route.local)
        return self._upstream.answer(asked, delivered, str(route.upstream), str(route.model))
