"""Canaries of a whole gateway: the honest provider passes, one that answers with another model is found and left."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from consumer.gateway.commands import app
from consumer.gateway.references import dump_known
from consumer.routing.canary import Verdict
from consumer.routing.reference import LocalReference
from tests.consumer.gateway.market_gateway import Running, running
from tests.support.engines import tiny_model
from tests.support.enlisted import enlist
from tests.support.live_market import ETHER, MESSAGES, MORE_PROVIDERS, LiveMarket, WorkerProcess, live_market
from tests.support.lying_provider import LyingProvider
from tests.support.tiny_gguf import NAME, write_tiny_gguf
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
OFTEN = "[gateway]\ncanary_s = 0.05\n"


@dataclass
class Stage:
    """An honest provider of the tiny model, and one that says the same whatever it is asked."""

    market: LiveMarket
    honest: str
    swapped: LyingProvider

    @property
    def swapped_route(self) -> str:
        """Its name."""
        return f"provider/{self.swapped.identity.provider}/{NAME}"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(market: LiveMarket, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    enrolment = await asyncio.to_thread(market.enrol, tmp_path_factory.mktemp("provider"))
    identity = await asyncio.to_thread(enlist, market, MORE_PROVIDERS[0], price_out=20)
    with market.sender("funds", 0) as sender:
        sender.execute("operator", enrolment.operator, value=ETHER, timeout=30)
    with WorkerProcess(enrolment.config) as worker:
        url = await asyncio.to_thread(worker.wait_ready)
        async with LyingProvider(identity) as swapped:
            yield Stage(market, url, swapped)


async def ask(found: Running, model: str) -> str:
    """A short question; the route that answered."""
    body = {"model": model, "messages": MESSAGES, "max_tokens": 4, "temperature": 0}
    response = await found.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.headers["x-clawmarket-route"]


async def explained(found: Running) -> tuple[list[str], dict[str, list[str]]]:
    """Routes that would be tried, and why others are not."""
    response = await found.http.post("/gateway/explain", json={"model": NAME, "messages": MESSAGES})
    plan = response.json()
    return [each["name"] for each in plan["routes"]], {each["name"]: each["reasons"] for each in plan["excluded"]}


async def canaries(found: Running) -> dict[str, Any]:
    """What status says of them."""
    shown: dict[str, Any] = (await found.http.get("/gateway/status")).json()["canaries"]
    return shown


async def verdict_on(found: Running, route: str) -> str:
    """The first verdict on a route, as soon as there is one."""
    shown = found.gateway.status
    await until(lambda: shown()["canaries"].get(route, {}).get("verdict") in set(Verdict))
    return str((await canaries(found))[route]["verdict"])


def known_answers(folder: Path) -> str:
    """A file of the tiny model's answers, and the settings that name it."""
    reference = LocalReference(tiny_model())
    recorded = [reference.record(f"{number} and", 24) for number in range(8)]
    reference.close()
    path = folder / "answers.json"
    path.write_text(dump_known({hashlib.sha256(tiny_model().read_bytes()).hexdigest(): recorded}))
    return f'{OFTEN}canary_answers = "{path}"\n'


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "recorded"])
async def test_a_swapped_model_is_found_and_left_and_an_honest_one_is_not(
    stage: Stage, tmp_path: Path, how: str
) -> None:
    more, tokenizer = (OFTEN, None) if how == "file" else (known_answers(tmp_path), _vocabulary_of(tmp_path))
    urls = [stage.honest, stage.swapped.url]
    async with running(stage.market, tmp_path / "gateway", urls, more, tokenizer) as found:
        assert await canaries(found) == {}
        assert await ask(found, stage.swapped_route) == stage.swapped_route
        assert await verdict_on(found, stage.swapped_route) == "swapped"
        routes, excluded = await explained(found)
        assert routes == [f"provider/1/{NAME}"]
        assert excluded[stage.swapped_route] == ["another model than the one that is sold was found behind it"]
        assert await ask(found, NAME) == f"provider/1/{NAME}"
        assert await verdict_on(found, f"provider/1/{NAME}") == "same"
        assert (await canaries(found))[stage.swapped_route]["verdict"] == "swapped", "nobody asks it any more"
        health = found.gateway.status()["routes"]
        assert health[f"provider/1/{NAME}"]["trust"] == 1
        assert health[stage.swapped_route]["trust"] == pytest.approx(0.05, abs=0.01)
        assert health[stage.swapped_route]["outcomes"]["swapped_model"] == 1
        shown = CliRunner(env={"CLAWMARKET_URL": f"{found.url}/v1", "CLAWMARKET_API_KEY": found.key})
        told = (await asyncio.to_thread(shown.invoke, app, ["explain", NAME])).output
        assert "another model" in told
        await _all_is_paid(found)


async def test_without_lease_in_use_nobody_is_asked(stage: Stage, tmp_path: Path) -> None:
    async with running(stage.market, tmp_path, [stage.swapped.url], OFTEN) as found:
        seen = len(stage.swapped.seen)
        await found.gateway._catalogue.refresh()
        assert not any(found.gateway._probing._is_due(each) for each in found.gateway._catalogue.candidates)
        assert len(stage.swapped.seen) == seen


async def test_never__asks_nobody(stage: Stage, tmp_path: Path) -> None:
    async with running(stage.market, tmp_path, [stage.swapped.url], "[gateway]\ncanary_s = 0\n") as found:
        await found.gateway._probing.run()
        assert found.gateway.status()["canaries"] == {}


async def _all_is_paid(found: Running) -> None:
    """Canaries are owed and signed for like every request."""
    store = found.session.store

    def is_paid(lease_id: bytes) -> bool:
        highest = store.highest_voucher(lease_id)
        signed = highest.message.cumulative if highest else 0
        return not store.unfinished(lease_id) and signed == store.owed(lease_id) > 24 * 10

    for lease in store.leases():
        await until(lambda lease_id=lease.lease_id: is_paid(lease_id))  # type: ignore[misc]


def _vocabulary_of(folder: Path) -> Path:
    """A file with the tiny model's tokenizer and other weights."""
    return write_tiny_gguf(folder / "vocabulary.gguf", seed=9)
