"""Canaries by routing's rules: none goes where no request would, and one that came to nothing hides no verdict."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumer.gateway.dispatch import Dispatcher
from consumer.gateway.events import Asked, Chunk, Delivered, FailureClass, Leg, Part, RouteFailed
from consumer.gateway.probing import TOKENS, Probing
from consumer.routing.canary import Known, Verdict
from consumer.routing.routes import Route
from protocol.stream import StreamToken
from tests.consumer.routing.candidates import Routing, candidate, routing

ONE = candidate(1)
SOLD = [StreamToken(number, -100) for number in range(TOKENS)]
OTHERS = [StreamToken(number + 1, -100) for number in range(TOKENS)]


@dataclass
class Provider:
    """What is behind the route: tokens, or a failure."""

    says: Sequence[StreamToken] | FailureClass = field(default_factory=lambda: SOLD)
    asked: int = 0

    async def answer(self, route: Route, asked: Asked, delivered: Delivered) -> AsyncIterator[Part]:
        """Every token in one chunk."""
        self.asked += 1
        if isinstance(self.says, FailureClass):
            raise RouteFailed(self.says, "no")
        yield Chunk([{"text": ""}], self.says)
        yield Leg(route.name, "finished")


class Answers:
    """Recorded answers, of one model."""

    def __init__(self) -> None:
        self.loaded = 0

    @asynccontextmanager
    async def of(self, sha256: str) -> AsyncIterator[Sequence[Known]]:
        """As `References.of`."""
        assert sha256 == "ab" * 32
        self.loaded += 1
        yield [Known(f"prompt {number}", tuple(SOLD)) for number in range(8)]


@dataclass
class Stage:
    """Probing over real routing."""

    found: Routing
    provider: Provider
    probing: Probing

    def verdict(self) -> str:
        """What people are shown."""
        return str(self.probing.shown()[ONE.name]["verdict"])


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def stage(answers: Answers) -> Stage:
    found, provider = await routing(ONE), Provider()
    fakes: Any = (Dispatcher(found.router, provider), answers)  # type: ignore[arg-type]
    always: Callable[[Any], bool] = lambda _: True  # noqa: E731
    probing = Probing(
        1e-9,
        candidates=lambda: found.catalogue.candidates,
        is_used=always,
        dispatcher=fakes[0],
        health=found.health,
        references=fakes[1],
    )
    return Stage(found, provider, probing)


async def test_route_that_lost_its_trust_is_asked_no_more_and_its_verdict_stays(stage: Stage, answers: Answers) -> None:
    stage.provider.says = OTHERS
    assert stage.probing._is_due(ONE)
    assert await stage.probing.probe(ONE) is Verdict.SWAPPED
    assert not stage.probing._is_due(ONE)
    asked, loaded = stage.provider.asked, answers.loaded
    await stage.probing.probe(ONE)
    assert stage.verdict() == "swapped"
    assert (stage.provider.asked, answers.loaded) == (asked, loaded + 1)


async def test_route_that_cools_down_is_not_probed_until_it_may_be_asked_again(stage: Stage) -> None:
    stage.provider.says = FailureClass.OVERLOAD
    await stage.probing.probe(ONE)
    assert stage.verdict() == "overload"
    assert not stage.probing._is_due(ONE)
    stage.found.clock.at += 3
    assert stage.probing._is_due(ONE)


async def test_failure_hides_no_verdict_and_a_verdict_replaces_a_failure(stage: Stage) -> None:
    for says, told in ((FailureClass.MONEY, "money"), (SOLD, "same"), (FailureClass.MONEY, "same")):
        stage.provider.says = says
        await stage.probing.probe(ONE)
        assert stage.verdict() == told
    stage.provider.says = OTHERS
    await stage.probing.probe(ONE)
    assert stage.verdict() == "swapped"
