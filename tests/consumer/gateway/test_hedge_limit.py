"""What hedges may cost a day holds for those too that break off, or whose application leaves."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from consumer.gateway.hedging import HedgeBudget
from tests.consumer.gateway.market_gateway import Running, running
from tests.support.enlisted import enlist
from tests.support.lies import Lies
from tests.support.live_market import MESSAGES, MORE_PROVIDERS, LiveMarket, live_market
from tests.support.lying_provider import TEXT, LyingProvider
from tests.support.tiny_gguf import NAME
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
BODY = {"model": NAME, "messages": MESSAGES, "max_tokens": len(TEXT), "temperature": 0, "stream": True}


@dataclass
class Stage:
    """A provider that is cheap and slow, the one that hedges for it, and the gateway."""

    second: LyingProvider
    found: Running

    def forget(self) -> None:
        """The slow one is as good as new, and so tried first."""
        self.found.gateway._breaker._states.clear()
        self.found.gateway._health._routes.clear()

    @property
    def budget(self) -> HedgeBudget:
        hedge = self.found.gateway._dispatcher._hedge
        assert isinstance(hedge, HedgeBudget)
        return hedge


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(market: LiveMarket, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    identities = [enlist(market, price_out=20), enlist(market, MORE_PROVIDERS[0], price_out=30)]
    async with (
        LyingProvider(identities[0], Lies(first_token_s=20)) as first,
        LyingProvider(identities[1]) as second,
        running(market, tmp_path_factory.mktemp("gateway"), [first.url, second.url], "[hedge]\nafter_ms = 50") as found,
    ):
        await found.http.post("/v1/chat/completions", json=BODY)  # opens both leases
        yield Stage(second, found)


async def test_a_hedge_that_breaks_off_is_counted(stage: Stage) -> None:
    stage.forget()
    before = stage.budget._spent
    stage.second.lies = Lies(cut_after_tokens=20)
    await stage.found.http.post("/v1/chat/completions", json=BODY)
    await until(lambda: stage.budget._held == 0)
    assert stage.budget._spent > before


async def test_a_hedge_whose_application_leaves_is_counted(stage: Stage) -> None:
    stage.forget()
    before = stage.budget._spent
    stage.second.lies = Lies(token_s=0.1)
    async with stage.found.http.stream("POST", "/v1/chat/completions", json=BODY) as answer:
        await anext(answer.aiter_bytes())
    await until(lambda: stage.budget._held == 0)
    assert stage.budget._spent > before
