"""Whatever fails around a whole gateway, the application gets its answer or a clear error, and the money is right."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumer.gateway.events import Asked
from consumer.gateway.hedging import HedgeBudget, most_of
from protocol.money import USDC, Money
from tests.consumer.gateway.market_gateway import Running, running
from tests.support.enlisted import enlist
from tests.support.lies import Lies
from tests.support.live_market import MESSAGES, MORE_PROVIDERS, LiveMarket, live_market
from tests.support.lying_provider import TEXT, Identity, LyingProvider
from tests.support.tcp_proxy import TcpProxy
from tests.support.tiny_gguf import NAME, prompt_tokens
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEARER = 20
PROMPT = prompt_tokens(MESSAGES)
WHOLE = PROMPT * 10 + len(TEXT) * 20
IMPATIENT = "[gateway]\nidle_timeout_s = 1\n"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


@pytest.fixture(scope="module")
def identities(market: LiveMarket) -> list[Identity]:
    """A cheap provider and a dear one."""
    cheap = enlist(market, price_in=10, price_out=20)
    return [cheap, enlist(market, MORE_PROVIDERS[0], price_in=10 * DEARER, price_out=20 * DEARER)]


@dataclass
class Stage:
    """A provider that is asked first, another one, and a gateway."""

    first: LyingProvider
    second: LyingProvider
    found: Running

    def owed(self, provider: LyingProvider) -> int:
        """By the records."""
        store, number = self.found.session.store, provider.identity.provider
        return sum(store.owed(lease.lease_id) for lease in store.leases() if lease.provider == number)

    def body(self, model: str = NAME) -> dict[str, Any]:
        """A question."""
        return {"model": model, "messages": MESSAGES, "max_tokens": len(TEXT) + 1, "temperature": 0, "stream": True}

    async def stream(self, model: str = NAME) -> tuple[str, list[str]]:
        """A streamed answer, and which routes gave it."""
        text, legs = "", []
        async with self.found.http.stream("POST", "/v1/chat/completions", json=self.body(model)) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line.startswith(": clawmarket {"):
                    legs = json.loads(line.removeprefix(": clawmarket ")).get("legs", [])
                elif line.startswith("data: {"):
                    content = json.loads(line.removeprefix("data: "))
                    assert "error" not in content, content
                    text += "".join(choice["delta"].get("content") or "" for choice in content["choices"])
        return text, [leg["route"] for leg in legs]

    async def refused(self, model: str = NAME, words: str = "hello") -> httpx.Response:
        """The error of a question."""
        messages = [{"role": "user", "content": words}]
        body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}
        return await self.found.http.post("/v1/chat/completions", json=body)

    async def excluded(self) -> dict[str, list[str]]:
        """Who would not be asked now, and why."""
        asked = await self.found.http.post("/gateway/explain", json={"model": NAME, "messages": MESSAGES})
        return {each["name"]: each["reasons"] for each in asked.json()["excluded"]}

    @property
    def budget(self) -> dict[str, Any]:
        """The day's."""
        shown: dict[str, Any] = next(each for each in self.found.gateway.status()["budgets"] if each["scope"] == "all")
        return shown

    def hold_breaker(self) -> None:
        """From here on cooldowns stay as long as they are, however slow the machine."""
        breaker, now = self.found.gateway._breaker, time.monotonic()
        breaker._now = lambda: now

    async def ended(self) -> None:
        """Repeats and payments in the background are done."""
        kept = self.found.gateway._spending.keeper._kept
        await until(lambda: not any(each.client._tasks for each in kept.values()))


@asynccontextmanager
async def staged(
    market: LiveMarket, identities: list[Identity], folder: Path, more: str = "", rpc: str = ""
) -> AsyncIterator[Stage]:
    """Both providers, honest so far, and a gateway that has asked each once."""
    async with (
        LyingProvider(identities[0]) as first,
        LyingProvider(identities[1]) as second,
        running(market, folder, [first.url, second.url], more, rpc=rpc) as found,
    ):
        stage = Stage(first, second, found)
        for provider in (second, first):
            await stage.stream(model=route(provider))
        yield stage


def route(provider: LyingProvider) -> str:
    """Its name."""
    return f"provider/{provider.identity.provider}/{NAME}"


async def test_provider_down__the_other_answers_and_it_cools_down(
    market: LiveMarket, identities: list[Identity], tmp_path: Path
) -> None:
    async with staged(market, identities, tmp_path) as stage:
        stage.hold_breaker()
        await stage.first.__aexit__()
        assert await stage.stream() == (TEXT, [route(stage.first), route(stage.second)])
        (reasons,) = (await stage.excluded()).values()
        assert "unreachable" in reasons[0]
        assert await stage.stream() == (TEXT, [route(stage.second)])
        await stage.ended()
        assert stage.owed(stage.first) == WHOLE
        assert stage.owed(stage.second) == 3 * WHOLE * DEARER


async def test_one_that_calls_a_good_request_malformed__is_not_believed_alone(
    market: LiveMarket, identities: list[Identity], tmp_path: Path
) -> None:
    async with staged(market, identities, tmp_path) as stage:
        stage.first.lies = Lies(calls_invalid=True)
        assert await stage.stream() == (TEXT, [route(stage.first), route(stage.second)])
        stage.second.lies = Lies(calls_invalid=True)
        refused = await stage.refused()
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
        await stage.ended()
        assert (stage.owed(stage.first), stage.owed(stage.second)) == (WHOLE, 2 * WHOLE * DEARER)


async def test_slow_first_token__the_hedge_answers_until_its_limit(
    market: LiveMarket, identities: list[Identity], tmp_path: Path
) -> None:
    """The limit is what one request may cost at most: of three at once one is hedged, and nothing beyond it."""
    async with staged(market, identities, tmp_path, "[hedge]\nafter_ms = 50\n") as stage:
        before = stage.owed(stage.second)
        budget = stage.found.gateway._dispatcher._hedge
        assert isinstance(budget, HedgeBudget)
        asked = Asked("/v1/chat/completions", stage.body(), "")
        second = next(
            each for each in stage.found.gateway._dispatcher.plan(asked).routes if each.name == route(stage.second)
        )
        limit = most_of(second, asked)
        budget._most = Money(limit, USDC)
        stage.first.lies = Lies(first_token_s=3)
        answers = await asyncio.gather(*(stage.stream() for _ in range(3)))
        assert all(text == TEXT for text, _ in answers)
        won = [legs for _, legs in answers if route(stage.second) in legs]
        assert len(won) == 1
        await stage.ended()
        assert stage.owed(stage.second) - before == WHOLE * DEARER <= limit
        stage.first.lies = Lies(first_token_s=0.3)
        assert (budget._held, budget._spent) == (0, WHOLE * DEARER)
        assert await stage.stream() == (TEXT, [route(stage.first)])


async def test_stalled_stream__goes_on_elsewhere_and_leaves_the_others_alone(
    market: LiveMarket, identities: list[Identity], tmp_path: Path
) -> None:
    async with staged(market, identities, tmp_path, IMPATIENT) as stage:
        seen = len(stage.first.seen)
        stage.first.lies = Lies(stalls_after=10)
        stalled = asyncio.create_task(stage.stream())
        await until(lambda: len(stage.first.seen) > seen)
        stage.first.lies = Lies(token_s=0.03)
        assert await stage.stream() == (TEXT, [route(stage.first)])
        assert await stalled == (TEXT, [route(stage.first), route(stage.second)])
        stage.first.lies = Lies()
        assert await stage.excluded() == {}
        assert await stage.stream() == (TEXT, [route(stage.first)])
        await stage.ended()
        assert stage.owed(stage.first) == 3 * WHOLE + PROMPT * 10 + 10 * 20


async def test_comments_without_end__are_no_answer(
    market: LiveMarket, identities: list[Identity], tmp_path: Path
) -> None:
    async with staged(market, identities, tmp_path, IMPATIENT) as stage:
        stage.first.lies = Lies(murmurs_after=10)
        assert await asyncio.wait_for(stage.stream(), 30) == (TEXT, [route(stage.first), route(stage.second)])


async def test_half_open_connection__is_left_after_the_idle_timeout(
    market: LiveMarket, identities: list[Identity], tmp_path: Path
) -> None:
    async with staged(market, identities, tmp_path, IMPATIENT) as stage:
        stage.first.lies = Lies(is_silent=True)
        assert await stage.stream() == (TEXT, [route(stage.first), route(stage.second)])
        await stage.ended()
        assert stage.owed(stage.first) == WHOLE
        assert stage.found.gateway.status()["routes"][route(stage.first)]["outcomes"]["timeout"] == 1


@pytest.mark.parametrize(
    ("lies", "status", "failure", "least_s"),
    [(Lies(retry_after_s=777), 429, "rate_limit", 700), (Lies(is_busy=True), 503, "overload", 1)],
)
async def test_no_room__the_provider_is_left_alone_as_long_as_it_asks(
    market: LiveMarket, identities: list[Identity], tmp_path: Path, lies: Lies, status: int, failure: str, least_s: int
) -> None:
    async with staged(market, identities, tmp_path) as stage:
        stage.hold_breaker()
        stage.first.lies = lies
        refused = await stage.refused(route(stage.first))
        assert refused.status_code == status
        assert await stage.stream() == (TEXT, [route(stage.second)])
        cooldown = stage.found.gateway._breaker.cooldown(route(stage.first))
        assert cooldown is not None
        assert (cooldown.failure.value, cooldown.left_s > least_s) == (failure, True)
        again = await stage.refused(route(stage.first))
        assert (again.status_code, int(again.headers["Retry-After"]) >= least_s) == (503, True)
        await stage.ended()
        assert stage.owed(stage.first) == WHOLE
        assert stage.found.gateway.status()["routes"][route(stage.first)]["trust"] == 1


async def test_chain_away_for_ten_minutes__requests_go_on_under_the_open_lease(
    market: LiveMarket, identities: list[Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ahead = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    with TcpProxy(market.node.port) as proxy:
        async with staged(market, identities, tmp_path, rpc=proxy.url) as stage:
            stage.found.gateway._spending.clock._own = time.time
            proxy.cut()
            await stage.found.gateway._catalogue.refresh()
            for minute in range(1, 11):
                ahead = minute * 60.0
                assert await stage.stream() == (TEXT, [route(stage.first)])
            await stage.ended()
            assert stage.owed(stage.first) == 11 * WHOLE
            assert stage.found.gateway.status()["routes"][route(stage.first)]["trust"] == 1
            proxy.restore()
            await stage.found.gateway._spending.keeper.look_after()


async def test_full_disk__nothing_is_signed_that_is_not_on_it(
    market: LiveMarket, identities: list[Identity], tmp_path: Path
) -> None:
    async with staged(market, identities, tmp_path) as stage:
        store = stage.found.session.store
        with store._commit_lock:
            store._db.execute("PRAGMA max_page_count = 1")  # as many as there are now
        for number in range(1_000):
            answer = await stage.refused(words="x" * 100 + str(number))
            if answer.status_code != 200:
                break
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "records_unavailable")
        assert "disk is full" in answer.json()["error"]["message"]
        asked = [seen.voucher for seen in stage.first.seen]
        kept = {row[0] for row in store._db.execute("SELECT signed FROM vouchers")}
        assert {voucher.encode() for voucher in (*asked, *stage.first.vouchers)} <= kept
        shown = stage.found.gateway.status()["routes"]
        assert all(shown[route(each)]["trust"] == 1 for each in (stage.first, stage.second))
        assert await stage.excluded() == {}
        with store._commit_lock:
            store._db.execute("PRAGMA max_page_count = 1000000")
        assert await stage.stream() == (TEXT, [route(stage.first)])
        await stage.ended()
        assert stage.budget["held"] == 0
        assert stage.budget["spent"] == stage.owed(stage.first) + stage.owed(stage.second)


@pytest.mark.slow
async def test_200_streams_at_once__all_end_and_the_budget_is_exact(
    market: LiveMarket, identities: list[Identity], tmp_path: Path
) -> None:
    async with staged(market, identities, tmp_path) as stage:
        answers = await asyncio.gather(*(stage.stream() for _ in range(200)))
        assert all(text == TEXT for text, _ in answers)
        await stage.ended()
        firsts = sum(legs == [route(stage.first)] for _, legs in answers)
        assert all(len(legs) == 1 for _, legs in answers)
        assert stage.owed(stage.first) == (1 + firsts) * WHOLE
        assert stage.owed(stage.second) == (201 - firsts) * WHOLE * DEARER
        assert stage.budget["held"] == 0
        await stage.ended()
        assert stage.budget["spent"] == stage.owed(stage.first) + stage.owed(stage.second)
        assert stage.found.gateway.status()["leases"]
        for lease in stage.found.session.store.leases():
            highest = stage.found.session.store.highest_voucher(lease.lease_id)
            assert highest is not None
            assert highest.message.cumulative == stage.found.session.store.owed(lease.lease_id)
