"""Gas against the goals and against the committed snapshot, on the very transactions of `make bench BENCH=gas`."""

from __future__ import annotations

import json

import pytest

from scripts.bench.gas import GOALS, SNAPSHOT, measure

RENEW = "python -m scripts.bench.gas --renew"
ALLOWED_GROWTH = 0.01


@pytest.fixture(scope="module")
def measured() -> dict[str, int]:
    return measure()


def growth_report(measured: dict[str, int], snapshot: dict[str, int]) -> list[str]:
    """What makes a measurement unacceptable beside a snapshot."""
    problems = [f"{name} is not in the snapshot" for name in measured.keys() - snapshot.keys()]
    problems += [f"{name} is no longer measured" for name in snapshot.keys() - measured.keys()]
    problems += [
        f"{name}: {snapshot[name]} -> {measured[name]}"
        for name in measured.keys() & snapshot.keys()
        if measured[name] > snapshot[name] * (1 + ALLOWED_GROWTH)
    ]
    return sorted(problems)


def test_gas__against_the_snapshot__grows_by_at_most_one_percent(measured: dict[str, int]) -> None:
    problems = growth_report(measured, json.loads(SNAPSHOT.read_text()))
    assert not problems, f"{problems}; if this is meant, renew the snapshot: {RENEW}"


@pytest.mark.parametrize("name", GOALS)
def test_gas__in_steady_state__meets_its_goal(measured: dict[str, int], name: str) -> None:
    assert measured[name] <= GOALS[name]


def test_gas__settled_in_batches_of_100__costs_less_than_half_a_transfer(measured: dict[str, int]) -> None:
    assert measured["settle_per_lease_100"] * 2 < measured["erc20_transfer"]


def test_growth_report__more_than_one_percent__is_a_problem() -> None:
    assert growth_report({"a": 101}, {"a": 100}) == []
    assert growth_report({"a": 102}, {"a": 100}) == ["a: 100 -> 102"]
    assert growth_report({"b": 1}, {"a": 1}) == ["a is no longer measured", "b is not in the snapshot"]
