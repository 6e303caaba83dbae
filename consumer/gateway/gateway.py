"""One running gateway, put together: session, spending, routing, and the ways to an answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from consumer.config import ConsumerConfig
from consumer.gateway.dispatch import Dispatcher, needs_of
from consumer.gateway.events import Asked, Part, Routed
from consumer.gateway.hedging import HedgeBudget
from consumer.gateway.local import Locals
from consumer.gateway.market import MarketRoutes
from consumer.gateway.probing import Probing
from consumer.gateway.references import References, load_known
from consumer.gateway.upstream import Upstreams
from consumer.gateway.ways import Ways
from consumer.routing.breaker import Breaker
from consumer.routing.catalogue import Candidate, Catalogue
from consumer.routing.chain_source import ChainOffers
from consumer.routing.health import Health
from consumer.routing.indexed_addresses import IndexedAddresses
from consumer.routing.limits import Limits
from consumer.routing.router import Fallbacks, Router
from consumer.session import Session
from consumer.spending.api_keys import ApiKeys
from consumer.spending.running import Spending, market_tokens

HEALTH_FILE = "routes.json"
AUTO = ("auto", "auto:cheap", "auto:fast")


class Gateway:
    """`start` and `stop` it on the event loop that uses it; the session stays the caller's."""

    def __init__(self, session: Session, config: ConsumerConfig) -> None:
        """Raises StoreError, TokenizerUnusable, ConfigUnusable, ChainError."""
        self._session = session
        self._spending = Spending(session, config)
        symbols = {address: token.symbol for address, token in market_tokens(session.client).items()}
        idle_s = config.gateway.idle_timeout_s
        self._locals = Locals(config.local, idle_s)
        self._upstreams = Upstreams(config.upstream, idle_s)
        is_development = session.client.deployment.profile.is_development
        indexed = IndexedAddresses(config.indexers, may_be_private=is_development)
        self._catalogue = Catalogue([ChainOffers(session.client, session.domain, config.providers, indexed)])
        self._health = Health(config.data / HEALTH_FILE)
        self._breaker = Breaker()
        self._router = Router(
            self._catalogue,
            self._health,
            self._breaker,
            Limits(config.limits, symbols),
            Fallbacks(self._locals.models(), self._upstreams.models()),
            has_room=self._spending.keeper.has_room,
            exposure=self._exposure,
        )
        market = MarketRoutes(self._spending.keeper, self._spending.tokenizers, symbols)
        hedge = HedgeBudget(config.hedge, self._spending.clock.now) if config.hedge.after_ms else None
        self._dispatcher = Dispatcher(self._router, Ways(market, self._locals, self._upstreams), hedge)
        answers = config.gateway.canary_answers
        models = [*(local.path for local in config.local.values()), *config.tokenizer_files]
        self._probing = Probing(
            config.gateway.canary_s,
            candidates=lambda: self._catalogue.candidates,
            is_used=self._spending.keeper.is_used,
            dispatcher=self._dispatcher,
            health=self._health,
            references=References(models, load_known(answers) if answers else None),
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def keys(self) -> ApiKeys:
        """Who may ask."""
        return self._spending.keys

    async def start(self) -> None:
        """Takes up the leases of earlier runs and looks for offers. Raises StoreError."""
        await self._spending.start()
        await self._catalogue.refresh()
        work = (self._catalogue.run(), self._health.run(), self._probing.run())
        self._tasks = [asyncio.create_task(each) for each in work]

    async def stop(self) -> None:
        """Ends what is on its way; leases stay open."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._locals.close()
        await self._upstreams.close()
        await self._spending.stop()

    def answer(self, asked: Asked) -> AsyncIterator[Routed | Part]:
        """The answer; see `Dispatcher`."""
        return self._dispatcher.answer(asked)

    def models(self) -> list[str]:
        """Names that can be asked for."""
        offered = {candidate.model for candidate in self._catalogue.candidates}
        pinned = [candidate.name for candidate in self._catalogue.candidates]
        local = [f"local/{name}" for name in self._locals.models()]
        upstream = [f"upstream/{name}/{model}" for name, model in self._upstreams.models()]
        return [*AUTO, *sorted(offered), *pinned, *local, *upstream] if offered or local or upstream else []

    async def explain(self, asked: Asked) -> dict[str, Any]:
        """What would be done with a request, and why. Raises RouteFailed."""
        return {"model": asked.model, "needs": vars(needs_of(asked)), **self._dispatcher.plan(asked).explain()}

    def status(self) -> dict[str, Any]:
        """Routes, leases and budgets, for people; amounts in base units."""
        return {
            "routes": self._health.shown(),
            "canaries": self._probing.shown(),
            "offers": [_offer(candidate) for candidate in self._catalogue.candidates],
            "leases": [
                {
                    "lease": "0x" + figure.record.lease_id.hex(),
                    "provider": figure.record.provider,
                    "model": figure.record.model,
                    "stage": figure.stage.value,
                    "deposit": figure.deposit,
                    "owed": figure.owed,
                    "room": figure.room,
                    "expiry": figure.record.expiry,
                }
                for figure in self._spending.keeper.figures()
            ],
            "budgets": [
                {
                    "scope": figure.scope.kind,
                    "name": figure.scope.name,
                    "period": figure.period,
                    "limit": str(figure.limit),
                    "spent": figure.spent,
                    "held": figure.held,
                }
                for figure in self._spending.budgets.figures()
            ],
        }

    def _exposure(self, candidate: Candidate) -> int:
        """How much of the money in leases lies with the candidate's provider, in thousandths."""
        mine, total = self._spending.keeper.deposits(candidate.provider)
        return mine * 1000 // total if total else 0


def _offer(candidate: Candidate) -> dict[str, Any]:
    terms, document = candidate.offer.terms, candidate.offer.document
    return {
        "name": candidate.name,
        "offer": candidate.offer.offer_id,
        "endpoint": candidate.endpoint.url,
        "price_in": terms.price_in,
        "price_out": terms.price_out,
        "unit_scale": terms.unit_scale,
        "stake": candidate.stake,
        "tier": document["tier"],
        "sandbox": candidate.sandbox,
        "region": document["region"],
    }
