"""What is measured of routes, and that it survives in the file."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.gateway.events import FailureClass, Leg
from consumer.routing.health import Health
from consumer.routing.measure import HALF_LIFE_S, WINDOW, Measure
from tests.consumer.routing.candidates import Clock


def answered(health: Health, ttft_ms: int = 100, ended: str = "finished") -> None:
    health.answered("a", Leg("a", ended, completion_tokens=101, ttft_ms=ttft_ms, duration_ms=ttft_ms + 1_000))


def test_answers__averages_and_percentiles() -> None:
    health = Health(now=Clock())
    for ttft_ms in range(1, 101):
        answered(health, ttft_ms)
    shown = health.shown()["a"]
    assert (shown["ttft_ms_p50"], shown["ttft_ms_p95"]) == (68, 97)
    assert 90 < shown["ttft_ms"] <= 100
    assert (shown["tokens_per_s"], shown["success"], shown["outcomes"]) == (100.0, 1.0, {"finished": 100})


@given(values=st.lists(st.floats(1, 1e6), min_size=1, max_size=200), age=st.floats(0, 1e7))
def test_measure__stays_between_what_was_seen_and_the_guess(values: list[float], age: float) -> None:
    measure = Measure(200.0)
    for value in values:
        measure.add(value, 0.0)
    bounds = [*values, 200.0]
    assert min(bounds) * (1 - 1e-9) <= measure.expected(age) <= max(bounds) * (1 + 1e-9)
    assert len(measure.newest) == min(len(values), WINDOW)
    assert measure.percentile(100) == max(values[-WINDOW:])
    assert measure.percentile(1) == min(values[-WINDOW:])
    assert measure.expected(60 * HALF_LIFE_S) == pytest.approx(200.0, abs=1e-3)


def test_failures__of_the_route_count_others_do_not() -> None:
    health = Health(now=Clock())
    for failure in (FailureClass.RATE_LIMIT, FailureClass.MONEY, FailureClass.BAD_REQUEST):
        health.failed("a", failure, failure.value)
    assert health.shown()["a"]["success"] == 1.0
    health.failed("a", FailureClass.OVERLOAD, "busy" * 1_000)
    shown = health.shown()["a"]
    assert (shown["success"], shown["trust"]) == (0.0, 1.0)
    assert all(len(error["error"]) <= 80 for error in shown["errors"])


def test_trust__falls_with_every_lie_and_comes_back_slowly() -> None:
    clock = Clock()
    health = Health(now=clock)
    seen = [1.0]
    for _ in range(5):
        health.failed("a", FailureClass.BAD_OUTPUT, "receipt")
        seen.append(health.of("a").trust(clock.at))
    assert seen == sorted(seen, reverse=True)
    assert seen[1] == 0.5
    for _ in range(100):
        answered(health)
    assert health.of("a").trust(clock.at) == seen[-1]
    clock.at += 7 * 86_400
    assert health.of("a").trust(clock.at) == pytest.approx((1 + seen[-1]) / 2)


def test_file__everything_comes_back__old_routes_are_forgotten(tmp_path: Path) -> None:
    clock = Clock()
    health = Health(tmp_path / "health.json", clock)
    answered(health)
    answered(health, ended="cancelled")
    health.failed("a", FailureClass.BAD_OUTPUT, "receipt")
    health.swapped("b")
    health.save()
    again = Health(tmp_path / "health.json", clock)
    assert again.shown() == health.shown()
    assert len(again.shown()) == 2
    clock.at += 31 * 86_400
    assert Health(tmp_path / "health.json", clock).shown() == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": 1}', '{"a": {}}', "[" * 100_000, '{"a": {"ttft_ms": [NaN, 0, []]}}']
)
def test_damaged_file__begun_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "health.json"
    path.write_text(text)
    health = Health(path, Clock())
    assert health.shown() == {}
    answered(health)
    health.save()
    assert json.loads(path.read_text()).keys() == {"a"}


async def test_run__saves_when_it_ends(tmp_path: Path) -> None:
    health = Health(tmp_path / "health.json", Clock())
    running = asyncio.create_task(health.run())
    await asyncio.sleep(0)
    answered(health)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert Health(tmp_path / "health.json", Clock()).shown() == health.shown() != {}
