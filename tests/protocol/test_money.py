"""Prices, SLA credit, fees and amounts: exact, and rounded one way."""

from __future__ import annotations

import dataclasses
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.exceptions import InvalidField, ProtocolError
from protocol.ids import OfferKind
from protocol.money import (
    CLAW,
    MONTH_SECONDS,
    UNIT_OF_KIND,
    USDC,
    Money,
    Price,
    Token,
    cost,
    cost_after_sla,
    credit,
    fee,
    parse_price,
    receipt_cost,
    sla_breached,
)
from protocol.typed_data import Receipt, Terms
from tests.protocol import strategies

TERMS = Terms(
    offer_kind=0,
    token="0x5FbDB2315678afecb367f032d93F642f64180aa3",
    price_in=10_000,
    price_out=30_000,
    price_cached=2_500,
    unit_scale=1_000,
    sla_ttft_ms=2_000,
    sla_milli_tokens_per_s=20_000,
    sla_credit_bps=2_500,
    period=0,
    doc_hash=bytes(32),
)
units = st.integers(0, 1 << 40)
prices = st.integers(0, 1 << 80)
scales = st.integers(1, (1 << 64) - 1)
times = strategies.uints(32)


def terms_of(price_in: int, price_cached: int, price_out: int, unit_scale: int) -> Terms:
    return dataclasses.replace(
        TERMS, price_in=price_in, price_cached=price_cached, price_out=price_out, unit_scale=unit_scale
    )


terms = st.builds(terms_of, prices, prices, prices, scales)


@given(terms, units, units, units)
def test_cost__is_the_exact_sum_rounded_up_once(offer: Terms, one: int, two: int, three: int) -> None:
    exact = Fraction(one * offer.price_in + two * offer.price_cached + three * offer.price_out, offer.unit_scale)
    assert exact <= cost(offer, one, two, three) < exact + 1


@given(terms, units, units, units, units, units, units)
def test_cost__grows_with_units_and_never_gains_by_joining(
    offer: Terms, one: int, two: int, three: int, more_one: int, more_two: int, more_three: int
) -> None:
    first, second = cost(offer, one, two, three), cost(offer, more_one, more_two, more_three)
    joined = cost(offer, one + more_one, two + more_two, three + more_three)
    assert max(first, second) <= joined <= first + second


@pytest.mark.parametrize(
    ("units_in", "units_cached", "units_out", "expected"),
    [(0, 0, 0, 0), (1, 0, 0, 10), (0, 1, 0, 3), (0, 2, 0, 5), (0, 0, 1, 30), (1000, 1000, 1000, 42_500), (0, 3, 0, 8)],
)
def test_cost__examples(units_in: int, units_cached: int, units_out: int, expected: int) -> None:
    assert cost(TERMS, units_in, units_cached, units_out) == expected


def test_cost__above_uint128__is_refused() -> None:
    offer = terms_of((1 << 128) - 1, 0, 0, 1)
    assert cost(offer, 1, 0, 0) == (1 << 128) - 1
    with pytest.raises(InvalidField, match="cost"):
        cost(offer, 2, 0, 0)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("wrong", [-1, 1 << 64, 1.0, True, "1"])
def test_cost__wrong_units__are_refused_by_name(at: int, wrong: Any) -> None:
    arguments: list[Any] = [1, 1, 1]
    arguments[at] = wrong
    with pytest.raises(InvalidField) as caught:
        cost(TERMS, *arguments)
    assert caught.value.field == ("units_in", "units_cached", "units_out")[at]


@pytest.mark.parametrize(
    ("ttft_ms", "duration_ms", "units_out", "breached"),
    [
        (2_000, 2_000, 0, False),
        (2_001, 2_001, 0, True),
        (100, 1_100, 20, False),
        (100, 1_101, 20, True),
        (100, 1_100, 19, True),
        (100, 90_000, 0, False),
        (500, 400, 1, False),
        (500, 500, 1, False),
    ],
)
def test_sla_breached__edges(ttft_ms: int, duration_ms: int, units_out: int, breached: bool) -> None:
    assert sla_breached(TERMS, ttft_ms, duration_ms, units_out) is breached


def test_sla_breached__no_time_between_first_and_last_unit__counts_as_one_millisecond() -> None:
    offer = dataclasses.replace(TERMS, sla_milli_tokens_per_s=1_000_001)
    for duration_ms in (499, 500, 501):
        assert sla_breached(offer, 500, duration_ms, 1)
        assert not sla_breached(offer, 500, duration_ms, 2)


@given(times, times, strategies.uints(64))
def test_sla_breached__no_promise__never(ttft_ms: int, duration_ms: int, units_out: int) -> None:
    offer = dataclasses.replace(TERMS, sla_ttft_ms=0, sla_milli_tokens_per_s=0)
    assert not sla_breached(offer, ttft_ms, duration_ms, units_out)


@given(terms, st.integers(0, 5_000), units, units, units, times, times)
def test_cost_after_sla__is_gross_less_at_most_the_credit(
    offer: Terms, bps: int, one: int, two: int, three: int, ttft_ms: int, duration_ms: int
) -> None:
    offer = dataclasses.replace(offer, sla_credit_bps=bps)
    gross, net = cost(offer, one, two, three), cost_after_sla(offer, one, two, three, ttft_ms, duration_ms)
    given_back = gross * bps // 10_000 if sla_breached(offer, ttft_ms, duration_ms, three) else 0
    assert net == gross - given_back
    assert gross <= 2 * net + 1


@given(units, units, units, times, times)
def test_cost_after_sla__monotone_in_input(one: int, two: int, three: int, ttft_ms: int, duration_ms: int) -> None:
    less = cost_after_sla(TERMS, one, two, three, ttft_ms, duration_ms)
    assert less <= cost_after_sla(TERMS, one + 1, two, three, ttft_ms, duration_ms)
    assert less <= cost_after_sla(TERMS, one, two + 1, three, ttft_ms, duration_ms)


def test_receipt_cost__takes_the_receipts_own_figures() -> None:
    receipt = Receipt(bytes(32), 1, 1, True, 0, 24, 5, 8, bytes(32), bytes(32), 2_500, 2_600, 0, bytes(32))
    assert receipt_cost(TERMS, receipt) == cost(TERMS, 24, 8, 5) - credit(TERMS, cost(TERMS, 24, 8, 5))


@given(st.lists(st.integers(0, 1 << 96), min_size=1, max_size=12), st.integers(0, 1_000))
def test_fee__any_split_of_a_settlement__ends_the_same(steps: list[int], bps: int) -> None:
    settled = total = 0
    for step in steps:
        part = fee(settled + step, bps) - fee(settled, bps)
        assert 0 <= part <= step
        settled, total = settled + step, total + part
    assert total == fee(sum(steps), bps) == sum(steps) * bps // 10_000


@pytest.mark.parametrize(("cumulative", "bps"), [(-1, 500), (1 << 128, 500), (1, -1), (1, 10_001), (1.5, 500)])
def test_fee__wrong_argument__is_refused(cumulative: Any, bps: Any) -> None:
    with pytest.raises(InvalidField):
        fee(cumulative, bps)


@given(strategies.uints(128), st.integers(0, 36))
def test_money__format_and_parse__agree_with_decimal(units: int, decimals: int) -> None:
    token = Token("ABC", decimals)
    money = Money(units, token)
    with localcontext(prec=80):
        assert Decimal(money.format()).scaleb(decimals) == units
    assert Money.parse(money.format(), token) == Money.parse(str(money), token) == money


@pytest.mark.parametrize(
    ("text", "token", "units"),
    [("1.25 USDC", None, 1_250_000), ("0.000001", USDC, 1), ("1.10", USDC, 1_100_000), ("3 CLAW", None, 3 * 10**18)],
)
def test_money__parse(text: str, token: Token | None, units: int) -> None:
    assert Money.parse(text, token).units == units


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("", USDC),
        ("1", None),
        ("1 ABC", None),
        ("1 CLAW", USDC),
        ("-1", USDC),
        ("+1", USDC),
        ("1e3", USDC),
        ("1,5", USDC),
        (".5", USDC),
        ("5.", USDC),
        ("0.0000001", USDC),
        ("1_000", USDC),
        ("nan", USDC),
        ("٣", USDC),
        ("9" * 39, USDC),
        ("1" * 10_000, USDC),
    ],
)
def test_money__unfit_text__is_refused(text: str, token: Token | None) -> None:
    with pytest.raises(InvalidField):
        Money.parse(text, token)


@given(strategies.uints(100), strategies.uints(100))
def test_money__arithmetic(one: int, two: int) -> None:
    left, right = Money(one, USDC), Money(two, USDC)
    assert (left + right).units == one + two
    assert (left < right) == (one < two)
    assert (left <= right) == (one <= two)
    if one >= two:
        assert (left - right) + right == left
    else:
        with pytest.raises(InvalidField):
            left - right


def test_money__two_tokens__do_not_mix() -> None:
    for operation in ("__add__", "__sub__", "__lt__", "__le__"):
        with pytest.raises(InvalidField, match="don't mix"):
            getattr(Money(1, USDC), operation)(Money(1, CLAW))
    assert Money(1, USDC) != Money(1, CLAW)


@pytest.mark.parametrize(("symbol", "decimals"), [("", 6), ("US DC", 6), ("A" * 17, 6), ("USDC", 37), ("USDC", -1)])
def test_token__unfit__is_refused(symbol: str, decimals: int) -> None:
    with pytest.raises(InvalidField):
        Token(symbol, decimals)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.01 USDC per 1K tokens", Price(USDC, 10_000, 1_000, "token")),
        ("0.03 USDC per 1K tokens", Price(USDC, 30_000, 1_000, "token")),
        ("0.15 USDC per 1M tokens", Price(USDC, 150_000, 1_000_000, "token")),
        ("0.001 USDC per query", Price(USDC, 1_000, 1, "query")),
        ("0.02 USDC per GB-month", Price(USDC, 20_000, 10**9, "byte", MONTH_SECONDS)),
        ("2 CLAW per hour", Price(CLAW, 2 * 10**18, 3_600, "second")),
        ("0.0000001 USDC per token", Price(USDC, 1, 10, "token")),
        ("0 USDC per 1K tokens", Price(USDC, 0, 1_000, "token")),
    ],
)
def test_parse_price__reference_prices(text: str, expected: Price) -> None:
    assert parse_price(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.01",
        "0.01 USDC",
        "USDC per token",
        "-1 USDC per token",
        "1 EUR per token",
        "1 USDC per parsec",
        "1e-3 USDC per token",
        "0.01  USDC per token",
        "1 USDC per 0 tokens",
        "1 USDC per token\n",
        "0." + "0" * 38 + "1 USDC per token",
        "1" * 80 + " USDC per token",
    ],
)
def test_parse_price__unfit_text__is_refused(text: str) -> None:
    with pytest.raises(InvalidField):
        parse_price(text)


@given(st.text(max_size=60))
def test_parse_price__anything__raises_only_our_error(text: str) -> None:
    for parse in (parse_price, Money.parse):
        try:
            parse(text)
        except ProtocolError:
            continue


@given(prices, st.integers(1, 10**12), st.integers(1, 10**12))
def test_price__rescaled__costs_the_same(price: int, scale: int, other: int) -> None:
    first = Price(USDC, price, scale, "token")
    assume(price * other % scale == 0)
    second = first.rescaled(other)
    assert second.price * scale == price * other


def test_price__rescaled_inexactly__is_refused() -> None:
    assert Price(USDC, 10_000, 1_000, "token").rescaled(1) == Price(USDC, 10, 1, "token")
    with pytest.raises(InvalidField, match="unit_scale"):
        Price(USDC, 2_500, 1_000, "token").rescaled(1)


def test_units__every_kind_has_one() -> None:
    assert set(UNIT_OF_KIND) == set(OfferKind)
