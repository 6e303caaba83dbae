"""What lies are worth, through a whole gateway: exactly what was right is paid, and the liar is not asked again."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from consumer import checks
from protocol.money import USDC, Money
from protocol.signing import Signer
from tests.consumer.gateway.market_gateway import Running, running
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.enlisted import enlist
from tests.support.lies import Lies, ReceiptLies, name_of
from tests.support.live_market import MESSAGES, MORE_PROVIDERS, LiveMarket, live_market
from tests.support.lying_provider import TEXT, Identity, LyingProvider
from tests.support.tiny_gguf import NAME, prompt_tokens
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRICE_IN, PRICE_OUT, PART = 10, 20, 8
DEARER = 20
PROMPT = prompt_tokens(MESSAGES)
LAST_PART = len(TEXT) // PART * PART
STRANGER = Signer(b"\x77" * 32)
CREDIT_BPS = 5_000


@dataclass
class Dealt:
    """An answer, and what it cost by provider."""

    text: str
    legs: list[dict[str, Any]]
    owed: dict[int, int]


@dataclass
class Stage:
    """A liar, which is cheaper, and an honest provider; a gateway over them."""

    liar: LyingProvider
    honest: LyingProvider
    found: Running

    def owed(self, provider: LyingProvider) -> int:
        """By the records; the highest voucher says the same."""
        store, owed = self.found.session.store, 0
        for lease in store.leases():
            if lease.provider == provider.identity.provider:
                highest = store.highest_voucher(lease.lease_id)
                owed += store.owed(lease.lease_id)
                assert highest is not None
                assert highest.message.cumulative == store.owed(lease.lease_id)
        return owed

    async def ask(self, model: str = NAME) -> Dealt:
        """A streamed answer, once everything it began has ended."""
        providers = (self.liar, self.honest)
        before = [self.owed(each) for each in providers]
        text, legs = await stream(self.found, model)
        await ended(self.found)
        cost = {each.identity.provider: self.owed(each) - old for each, old in zip(providers, before, strict=True)}
        return Dealt(text, legs, cost)

    def begin(self, lies: Lies) -> None:
        """Everybody is as good as new."""
        self.found.gateway._breaker._states.clear()
        self.found.gateway._health._routes.clear()
        self.liar.lies = lies

    def health(self, provider: LyingProvider) -> dict[str, Any]:
        """What is known of it."""
        shown: dict[str, Any] = self.found.gateway.status()["routes"][route_of(provider)]
        return shown

    async def excluded(self) -> dict[str, list[str]]:
        """Who would not be asked now, and why."""
        asked = await self.found.http.post("/gateway/explain", json={"model": NAME, "messages": MESSAGES})
        return {each["name"]: each["reasons"] for each in asked.json()["excluded"]}


def route_of(provider: LyingProvider) -> str:
    """Its name."""
    return f"provider/{provider.identity.provider}/{NAME}"


def cost(tokens: int) -> int:
    """Of this many tokens of the liar's."""
    return PROMPT * PRICE_IN + tokens * PRICE_OUT


async def stream(found: Running, model: str) -> tuple[str, list[dict[str, Any]]]:
    """The text that an application is shown, and the legs."""
    body = {"model": model, "messages": MESSAGES, "max_tokens": len(TEXT) + PART, "temperature": 0, "stream": True}
    text, legs = "", []
    async with found.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith(": clawmarket {"):
                legs = json.loads(line.removeprefix(": clawmarket ")).get("legs", [])
            elif line.startswith("data: {"):
                content = json.loads(line.removeprefix("data: "))
                assert "error" not in content, content
                text += "".join(choice["delta"].get("content") or "" for choice in content["choices"])
    return text, legs


async def ended(found: Running) -> None:
    """Every repeat and payment in the background is done."""
    kept = found.gateway._spending.keeper._kept
    await until(lambda: not any(each.client._tasks for each in kept.values()))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(market: LiveMarket, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    liar = enlist(market, price_in=PRICE_IN, price_out=PRICE_OUT)
    honest = enlist(market, MORE_PROVIDERS[0], price_in=DEARER * PRICE_IN, price_out=DEARER * PRICE_OUT)
    async with (
        LyingProvider(liar, part_every=PART) as first,
        LyingProvider(honest, part_every=PART) as second,
        running(market, tmp_path_factory.mktemp("gateway"), [first.url, second.url]) as found,
    ):
        yield Stage(first, second, found)


@pytest.fixture(scope="module")
def timed(market: LiveMarket) -> Identity:
    promises = {"sla_ttft_ms": 50, "sla_milli_tokens_per_s": 1_000_000, "sla_credit_bps": CREDIT_BPS}
    return enlist(market, MORE_PROVIDERS[1], price_in=PRICE_IN, price_out=PRICE_OUT, **promises)


@pytest.mark.parametrize("lies", [Lies(), Lies(ReceiptLies(clock_s=60))], ids=name_of)
async def test_honest__paid_to_the_last_unit_and_trusted(stage: Stage, lies: Lies) -> None:
    stage.begin(lies)
    dealt = await stage.ask()
    assert dealt.text == TEXT
    assert [leg["route"] for leg in dealt.legs] == [route_of(stage.liar)]
    assert dealt.owed[stage.liar.identity.provider] == cost(len(TEXT))
    assert sum(dealt.owed.values()) == cost(len(TEXT))
    await until(lambda: stage.liar.paid[-1] == stage.owed(stage.liar))
    assert stage.health(stage.liar)["trust"] == 1
    assert await stage.excluded() == {}


@pytest.mark.parametrize(
    ("lies", "paid"),
    [
        (Lies(ReceiptLies(percent_in=1)), None),
        (Lies(ReceiptLies(percent_out=1)), PART),
        (Lies(ReceiptLies(price_in=1)), None),
        (Lies(ReceiptLies(price_out=1)), None),
        (Lies(ReceiptLies(clock_s=180)), None),
        (Lies(ReceiptLies(clock_s=-180)), None),
        (Lies(ReceiptLies(part_gap=1)), 2 * PART),
        (Lies(ReceiptLies(falls_by=1)), PART),
        (Lies(ReceiptLies(is_other_model=True)), None),
        (Lies(ReceiptLies(is_other_request=True)), None),
        (Lies(ReceiptLies(is_other_answer=True)), PART),
        (Lies(ReceiptLies(other_key=STRANGER)), None),
        (Lies(ReceiptLies(is_missing=True)), LAST_PART),
        (Lies(unsigned_text_at=3), None),
        (Lies(silent_token_at=3), None),
        (Lies(unsigned_text_at=PART + 3), PART),
        (Lies(silent_token_at=PART + 3), PART),
    ],
    ids=lambda value: name_of(value) if isinstance(value, Lies) else None,
)
async def test_a_lie__only_what_was_right_is_paid_and_the_next_plan_is_without_the_liar(
    stage: Stage, lies: Lies, paid: int | None
) -> None:
    stage.begin(lies)
    dealt = await stage.ask()
    assert dealt.text == TEXT
    assert [leg["route"] for leg in dealt.legs] == [route_of(stage.liar), route_of(stage.honest)]
    assert dealt.legs[1]["ended"] == "finished"
    assert dealt.owed[stage.liar.identity.provider] == (0 if paid is None else cost(paid))
    assert max(seen.voucher.message.cumulative for seen in stage.liar.seen) <= stage.owed(stage.liar)
    assert max(stage.liar.paid, default=0) <= stage.owed(stage.liar)
    health = stage.health(stage.liar)
    assert health["trust"] == pytest.approx(0.5, abs=0.01)
    assert health["outcomes"] == {"bad_output": 1}
    assert list(await stage.excluded()) == [route_of(stage.liar)]
    seen = len(stage.liar.seen)
    assert [leg["route"] for leg in (await stage.ask()).legs] == [route_of(stage.honest)]
    assert len(stage.liar.seen) == seen


@pytest.mark.parametrize("slow", [Lies(first_token_s=0.4), Lies(token_s=0.01)], ids=name_of)
@pytest.mark.parametrize("is_quick", [False, True], ids=["told", "denied"])
async def test_slowness__the_promised_credit_is_taken_also_when_the_receipt_denies_it(
    market: LiveMarket, timed: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: Lies, *, is_quick: bool
) -> None:
    monkeypatch.setattr(checks, "SLA_SLACK_MS", 150)
    lies = replace(slow, receipts=ReceiptLies(is_quick=is_quick))
    async with (
        LyingProvider(timed, lies, part_every=len(TEXT) + 1) as provider,
        running(market, tmp_path, [provider.url]) as found,
    ):
        text, (leg,) = await stream(found, NAME)
        await ended(found)
        (lease,) = found.session.store.leases()
        gross = cost(len(TEXT))
        due = gross - gross * CREDIT_BPS // 10_000
        assert text == TEXT
        assert found.session.store.owed(lease.lease_id) == due
        assert provider.seen[0].receipts[-1].message.cost == (gross if is_quick else due)
        assert leg["cost"] == str(Money(due, USDC))


async def test_nobody_else__a_local_model_finishes_the_answer(market: LiveMarket, stage: Stage, tmp_path: Path) -> None:
    local = f'[local.small]\npath = "{tiny_model()}"\ncontext = 256\nthreads = 1\n'
    stage.liar.lies = Lies(ReceiptLies(price_out=1))
    with hold_engine_slots(1):
        async with running(market, tmp_path, [stage.liar.url], local) as found:
            text, legs = await stream(found, NAME)
            await asyncio.wait_for(ended(found), 30)
            assert [leg["route"] for leg in legs] == [route_of(stage.liar), "local/small"]
            assert text.startswith(TEXT[:PART])
            (lease,) = found.session.store.leases()
            assert found.session.store.owed(lease.lease_id) == 0
