"""A meter's receipts charge what the terms say, and never fall."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocol import money
from protocol.merkle import quantise_logprob, response_root
from protocol.typed_data import Receipt, Terms
from provider.metering import Meter, closing_receipt, most_output, prompt_cost
from tests.support.provider_stack import TOKEN

LEASE = b"\x01" * 32

prices = st.integers(0, 10**6)
terms_strategy = st.builds(
    lambda price_in, price_out, price_cached, scale, ttft, rate, bps: Terms(
        0, TOKEN, price_in, price_out, price_cached, scale, ttft, rate, bps, 0, bytes(32)
    ),
    prices,
    prices,
    prices,
    st.integers(1, 10**6),
    st.integers(0, 500),
    st.integers(0, 100_000),
    st.integers(0, 5_000),
)


@given(terms_strategy, st.integers(1, 100), st.integers(0, 100), st.lists(st.integers(0, 50), max_size=30))
def test_receipts_never_fall_and_the_final_is_exact(terms: Terms, prompt: int, cached: int, gaps: list[int]) -> None:
    cached = min(cached, prompt - 1)
    meter = Meter(terms, LEASE, 1, b"\x05" * 32, b"\x09" * 32, 10**12)
    meter.start(prompt, cached)
    elapsed, parts, tokens = 0, [], []
    for number, gap in enumerate(gaps):
        elapsed += gap
        gross = meter.gross_with_next()
        tokens.append((number, meter.add(number, -0.5, elapsed)))
        assert meter.cost <= meter.gross == gross
        if number % 7 == 3:
            parts.append(meter.receipt(final=False, duration_ms=elapsed, ended_at=5))
    parts.append(meter.receipt(final=True, duration_ms=elapsed, ended_at=5))
    assert [receipt.part for receipt in parts] == list(range(len(parts)))
    for earlier, later in pairwise(parts):
        assert earlier.cost <= later.cost
        assert earlier.units_out <= later.units_out
    for receipt in parts:
        assert receipt.cost <= money.receipt_cost(terms, receipt)
        assert receipt.ttft_ms <= receipt.duration_ms
    final = parts[-1]
    assert final.cost == money.receipt_cost(terms, final) == meter.cost <= meter.gross
    assert (final.units_in, final.units_cached, final.units_out) == (prompt - cached, cached, len(gaps))
    assert final.response_hash == response_root(tokens)
    assert all(logprob == quantise_logprob(-0.5) for _, logprob in tokens)


@given(terms_strategy, st.integers(0, 1_000), st.integers(0, 10**9))
def test_affordable_output_fits_and_one_more_does_not(terms: Terms, prompt: int, max_cost: int) -> None:
    affordable = most_output(terms, prompt, max_cost)
    if affordable < 0:
        assert prompt_cost(terms, prompt) > max_cost
        return
    dearest = max(terms.price_in, terms.price_cached)
    assert -(-(prompt * dearest + affordable * terms.price_out) // terms.unit_scale) <= max_cost
    if terms.price_out:
        assert -(-(prompt * dearest + (affordable + 1) * terms.price_out) // terms.unit_scale) > max_cost


def test_interrupted_request_ends_as_its_last_part_said() -> None:
    last = Receipt(LEASE, 3, 2, False, 50, 4, 5, 6, b"\x05" * 32, b"\x06" * 32, 7, 8, 100, b"\x09" * 32)
    final = closing_receipt(last, LEASE, 3, b"\x05" * 32, b"\x09" * 32, 200)
    assert (final.part, final.final, final.cost, final.ended_at) == (3, True, 50, 200)
    assert (final.units_out, final.response_hash) == (5, b"\x06" * 32)


def test_interrupted_request_without_a_part_costs_nothing() -> None:
    final = closing_receipt(None, LEASE, 3, b"\x05" * 32, b"\x09" * 32, 200)
    assert (final.part, final.final, final.cost, final.units_in, final.units_out) == (0, True, 0, 0, 0)
    assert final.response_hash == bytes(32)


def test_first_token_credit_is_decided_by_the_first_token() -> None:
    terms = Terms(0, "0x" + "11" * 20, 10, 30, 5, 1, 1_000, 0, 5_000, 0, b"\x01" * 32)
    costs = []
    for ttft in (1_000, 1_001):
        meter = Meter(terms, LEASE, 1, b"\x05" * 32, b"\x09" * 32, 10**12)
        meter.start(10, 0)
        assert meter.cost == 50
        meter.add(1, -0.5, ttft)
        costs.append(meter.cost)
    assert costs == [130, 65]
