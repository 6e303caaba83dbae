"""Which offers were open at a time, and what their prices come to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from indexer.statistics.prices import UNITS, Group, Life, Summary, Terms, Version, priced_at, summary

TOKEN = b"\x01" * 20
CHEAP, DEAR = b"\x0a" * 32, b"\x0b" * 32
TERMS = {CHEAP: Terms("tiny", 10, 30, 1_000), DEAR: Terms("tiny", 20, 60, 1_000)}
GROUP = Group(1, "tiny", TOKEN)


def life(*versions: tuple[int, bytes], switches: tuple[tuple[int, bool], ...] = (), ends_at: int | None = None) -> Life:
    return Life([Version(time, 1, TOKEN, digest) for time, digest in versions], switches, ends_at)


def out_at(time: int, found: Life) -> list[int]:
    priced = priced_at(time, {(1, 1): found}, TERMS).get(GROUP)
    return priced.price_out if priced else []


def test_life__versions_switches_and_the_end() -> None:
    found = life((10, CHEAP), (20, DEAR), switches=((30, False), (40, True)), ends_at=50)
    cheap, dear = [30 * UNITS // 1_000], [60 * UNITS // 1_000]
    expected = {9: [], 10: cheap, 19: cheap, 20: dear, 29: dear, 30: [], 39: [], 40: dear, 49: dear, 50: []}
    assert {time: out_at(time, found) for time in expected} == expected


def test_several_changes_of_one_second__the_last_counts() -> None:
    found = life((10, CHEAP), (10, DEAR), switches=((10, False), (10, True), (10, False)))
    assert out_at(10, found) == []
    assert out_at(10, life((10, CHEAP), (10, DEAR))) == [60 * UNITS // 1_000]


def test_unknown_terms__have_no_price() -> None:
    assert priced_at(10, {(1, 1): life((10, b"\x0c" * 32))}, TERMS) == {}


def test_groups__are_not_mixed() -> None:
    other = Life([Version(1, 2, TOKEN, CHEAP)], (), None)
    found = priced_at(1, {(1, 1): life((1, CHEAP)), (2, 1): life((1, DEAR)), (2, 2): other}, TERMS)
    assert found.keys() == {GROUP, Group(2, "tiny", TOKEN)}
    assert found[GROUP].offers == [(1, 1), (2, 1)]


@given(st.lists(st.integers(0, 10**40), min_size=1, max_size=30))
def test_summary__is_ordered_and_of_the_prices_in_any_order(prices: list[int]) -> None:
    found = summary(prices)
    assert found.min <= found.median <= found.max
    assert found.min <= found.mean <= found.max
    assert found.median in prices
    assert 2 * sum(price <= found.median for price in prices) >= len(prices)
    assert 2 * sum(price >= found.median for price in prices) >= len(prices)
    assert summary(prices[::-1]) == found


def test_summary__of_few() -> None:
    assert summary([3]) == Summary(3, 3, 3, 3)
    assert summary([1, 4]) == Summary(1, 1, 2, 4)
