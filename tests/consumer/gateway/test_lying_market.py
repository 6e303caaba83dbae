"""A gateway between a lying provider, which is cheaper, and an honest one: whatever the lie, the application is served
the whole text, and the liar is owed no more than what it honestly gave."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.consumer.gateway.market_gateway import Running, running
from tests.support.enlisted import enlist
from tests.support.lies import Lies, ReceiptLies, name_of
from tests.support.live_market import MESSAGES, MORE_PROVIDERS, LiveMarket, live_market
from tests.support.lying_provider import TEXT, Identity, LyingProvider
from tests.support.tiny_gguf import NAME, prompt_tokens
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
CUTS = (1, len(TEXT) // 2, len(TEXT))
LIES = [
    Lies(ReceiptLies(percent_in=1)),
    Lies(ReceiptLies(percent_out=1)),
    Lies(ReceiptLies(price_in=1)),
    Lies(ReceiptLies(price_out=1)),
    Lies(ReceiptLies(clock_s=180)),
    Lies(ReceiptLies(part_gap=1)),
    Lies(ReceiptLies(falls_by=1)),
    Lies(ReceiptLies(is_other_model=True)),
    Lies(ReceiptLies(is_other_request=True)),
    Lies(ReceiptLies(is_other_answer=True)),
    Lies(ReceiptLies(is_missing=True)),
    Lies(unsigned_text_at=3),
    Lies(silent_token_at=3),
    Lies(is_silent=True),
    Lies(retry_after_s=7),
    Lies(is_busy=True),
    Lies(cut_after_bytes=1),
    *(Lies(stalls_after=after) for after in CUTS),
    *(Lies(half_closes_after=after) for after in CUTS),
    *(Lies(cut_after_tokens=after) for after in CUTS),
]


@dataclass
class Stage:
    """The two providers and the gateway."""

    liar: LyingProvider
    honest: LyingProvider
    found: Running

    def owed_to_liar(self) -> int:
        """By the gateway's records."""
        number = self.liar.identity.provider
        leases = [lease for lease in self.found.session.store.leases() if lease.provider == number]
        return sum(self.found.session.store.owed(lease.lease_id) for lease in leases)

    def forget(self) -> None:
        """The liar is as good as new."""
        self.found.gateway._breaker._states.clear()
        self.found.gateway._health._routes.clear()

    async def stream(self) -> tuple[str, dict[str, Any]]:
        """The text that an application is shown, and what the last comment says."""
        body = {"model": NAME, "messages": MESSAGES, "max_tokens": len(TEXT), "temperature": 0, "stream": True}
        text, comment = "", {}
        async with self.found.http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line.startswith(": clawmarket "):
                    comment = json.loads(line.removeprefix(": clawmarket "))
                elif line.startswith("data: {"):
                    content = json.loads(line.removeprefix("data: "))
                    assert "error" not in content, content
                    text += "".join(choice["delta"].get("content") or "" for choice in content["choices"])
        return text, comment


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(market: LiveMarket, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    identities: list[Identity] = [enlist(market, price_out=20), enlist(market, MORE_PROVIDERS[0], price_out=30)]
    folder: Path = tmp_path_factory.mktemp("gateway")
    async with (
        LyingProvider(identities[0]) as liar,
        LyingProvider(identities[1]) as honest,
        running(market, folder, [liar.url, honest.url], "[gateway]\nidle_timeout_s = 0.5") as found,
    ):
        yield Stage(liar, honest, found)


async def test_without_lies_the_cheaper_one_answers_alone(stage: Stage) -> None:
    text, comment = await stage.stream()
    assert text == TEXT
    assert comment["route"] == f"provider/{stage.liar.identity.provider}/{NAME}"
    await until(lambda: stage.owed_to_liar() == prompt_tokens(MESSAGES) * 10 + len(TEXT) * 20)


@pytest.mark.parametrize("lies", LIES, ids=name_of)
async def test_a_lie_shows_no_more_than_as_another_leg(stage: Stage, lies: Lies) -> None:
    stage.forget()
    before = stage.owed_to_liar()
    stage.liar.lies = lies
    text, comment = await stage.stream()
    assert text == TEXT
    assert comment["legs"][-1]["ended"] == "finished"
    assert stage.owed_to_liar() - before <= prompt_tokens(MESSAGES) * 10 + len(TEXT) * 20
