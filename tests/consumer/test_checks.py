"""A receipt that is wrong in any one field is not paid."""

from dataclasses import replace
from typing import Any

import pytest

from consumer.checks import TIME_TOLERANCE_MS, Agreement, Answer, most_cost, prompt_bound, prompt_cost
from consumer.exceptions import ReceiptRejected
from consumer.records import Limits
from protocol.headers import RequestContext
from protocol.merkle import response_root
from protocol.stream import StreamToken
from protocol.typed_data import Receipt, Terms

TERMS = Terms(0, "0x" + "1" * 40, 10, 30, 5, 1, 1_000, 0, 5_000, 0, bytes(32))
NOW = 1_700_000_000
TOKENS = [StreamToken(5, -100), StreamToken(6, -200), StreamToken(7, -300)]
LIMITS = Limits(prompt_tokens=10, prompt_bound=10, max_tokens=4)
REQUEST = RequestContext(4, b"\x05" * 32, 1_000, NOW - 1, bytes(32))
AGREEMENT = Agreement(b"\x01" * 32, TERMS, b"\x09" * 32, REQUEST, LIMITS)
GOOD = Receipt(
    lease_id=b"\x01" * 32,
    seq=4,
    part=0,
    final=True,
    cost=8 * 10 + 2 * 5 + 3 * 30,
    units_in=8,
    units_out=3,
    units_cached=2,
    request_hash=b"\x05" * 32,
    response_hash=response_root((token.token_id, token.logprob) for token in TOKENS),
    ttft_ms=100,
    duration_ms=400,
    ended_at=NOW,
    model_fingerprint=b"\x09" * 32,
)


def answer(agreement: Agreement = AGREEMENT) -> Answer:
    received = Answer(agreement)
    for number, token in enumerate(TOKENS):
        received.add(token, 110 + number)
    return received


def check(receipt: Receipt, agreement: Agreement = AGREEMENT) -> Receipt:
    return answer(agreement).check(receipt, elapsed_ms=500, now=NOW)


def test_good_receipt_is_accepted() -> None:
    assert check(GOOD) == GOOD


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("lease_id", {"lease_id": b"\x02" * 32}),
        ("seq", {"seq": 5}),
        ("part", {"part": 1}),
        ("cost", {"cost": GOOD.cost + 1}),
        ("units_in", {"units_in": 9, "cost": 190}),
        ("units_in", {"units_in": 7, "cost": 170}),
        ("units_in", {"units_cached": 3}),
        ("units_out", {"units_out": 4, "cost": 210}),
        ("units_out", {"units_out": 2, "cost": 150}),
        ("request_hash", {"request_hash": b"\x06" * 32}),
        ("response_hash", {"response_hash": b"\x06" * 32}),
        ("ttft_ms", {"ttft_ms": 401}),
        ("ttft_ms", {"ttft_ms": 111 + TIME_TOLERANCE_MS}),
        ("duration_ms", {"duration_ms": 501 + TIME_TOLERANCE_MS}),
        ("ended_at", {"ended_at": NOW - 121}),
        ("ended_at", {"ended_at": NOW + 121}),
        ("model_fingerprint", {"model_fingerprint": b"\x08" * 32}),
    ],
)
def test_receipt_wrong_in_one_field_is_rejected(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ReceiptRejected) as rejection:
        check(replace(GOOD, **changes))
    assert rejection.value.field == field


def test_sla_credit_of_the_receipts_own_times_is_demanded() -> None:
    slow = replace(GOOD, ttft_ms=1_001, duration_ms=1_200)
    received = Answer(AGREEMENT)
    for token in TOKENS:
        received.add(token, 1_100)
    with pytest.raises(ReceiptRejected) as rejection:
        received.check(slow, elapsed_ms=1_300, now=NOW)
    assert rejection.value.field == "cost"
    half = replace(slow, cost=GOOD.cost - GOOD.cost // 2)
    assert received.check(half, elapsed_ms=1_300, now=NOW) == half


def test_cost_above_what_was_authorised_is_rejected() -> None:
    with pytest.raises(ReceiptRejected, match="authorised"):
        check(GOOD, replace(AGREEMENT, request=replace(REQUEST, max_cost=GOOD.cost - 1)))


def test_without_tokenizer_the_bound_holds() -> None:
    agreement = replace(AGREEMENT, limits=replace(LIMITS, prompt_tokens=None))
    assert check(GOOD, agreement) == GOOD
    with pytest.raises(ReceiptRejected) as rejection:
        check(replace(GOOD, units_in=9), agreement)
    assert rejection.value.field == "units_in"


def test_parts_may_not_fall_nor_skip() -> None:
    received = answer()
    part = replace(GOOD, final=False)
    received.check(part, elapsed_ms=500, now=NOW)
    wrong: list[tuple[dict[str, Any], str]] = [({"part": 2}, "part"), ({"part": 1, "cost": 0}, "cost")]
    for changes, field in wrong:
        with pytest.raises(ReceiptRejected) as rejection:
            received.check(replace(GOOD, **changes), elapsed_ms=500, now=NOW)
        assert rejection.value.field == field
    moved = replace(GOOD, part=1, units_in=9, units_cached=1, cost=185)
    with pytest.raises(ReceiptRejected) as rejection:
        received.check(moved, elapsed_ms=500, now=NOW)
    assert rejection.value.field == "units_cached"
    received.check(replace(GOOD, part=1), elapsed_ms=500, now=NOW)


def test_bounds_of_costs() -> None:
    assert most_cost(TERMS, 10, 4) == 220
    assert prompt_cost(replace(TERMS, unit_scale=3), 10) == 34
    assert prompt_cost(replace(TERMS, price_cached=20), 10) == 200
    assert prompt_bound([{"role": "user", "content": "é" * 10}]) > 24


@pytest.mark.parametrize("logprob", [1, -(1 << 31), (1 << 31) - 1])
def test_no_sampled_token_has_such_a_probability(logprob: int) -> None:
    received = answer()
    with pytest.raises(ReceiptRejected, match="log-probability"):
        received.add(StreamToken(8, logprob), 120)
    assert received.is_false


def test_tokens_beyond_those_asked_for_are_rejected() -> None:
    received = answer()
    received.add(StreamToken(8, 0), 120)
    with pytest.raises(ReceiptRejected, match="more than the 4 tokens"):
        received.add(StreamToken(8, 0), 120)
    assert received.is_false


def stored(receipt: Receipt, *, unseen: int = 0, received: Answer | None = None, now: int = NOW) -> int:
    return (received or answer()).check_stored(receipt, unseen=unseen, now=now)


def test_stored_receipt_of_exactly_what_came_is_paid() -> None:
    assert stored(GOOD) == GOOD.cost
    assert stored(GOOD, now=NOW + 5_000) == GOOD.cost
    with pytest.raises(ReceiptRejected, match="response_hash"):
        stored(replace(GOOD, response_hash=bytes(32)))


def test_tokens_that_never_came_are_paid_up_to_the_allowance() -> None:
    more = replace(GOOD, units_out=4, cost=GOOD.cost + 30, response_hash=b"\x03" * 32, part=3)
    assert stored(more) == GOOD.cost
    assert stored(more, unseen=1) == more.cost
    last = replace(GOOD, final=False, units_out=1, cost=GOOD.cost - 60)
    assert stored(more, unseen=2, received=Answer.resumed(AGREEMENT, last)) == GOOD.cost


def test_an_answer_known_only_by_its_last_receipt() -> None:
    last = replace(GOOD, final=False)
    closing = replace(GOOD, part=1, ended_at=NOW + 900)
    assert stored(closing, received=Answer.resumed(AGREEMENT, last), now=NOW + 1_000) == GOOD.cost
    nothing = replace(GOOD, cost=0, units_in=0, units_cached=0, units_out=0, response_hash=bytes(32))
    assert stored(replace(nothing, ttft_ms=0), received=Answer.resumed(AGREEMENT, None)) == 0


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("lease_id", {"lease_id": b"\x02" * 32}),
        ("seq", {"seq": 5}),
        ("request_hash", {"request_hash": b"\x06" * 32}),
        ("model_fingerprint", {"model_fingerprint": b"\x08" * 32}),
        ("final", {"final": False}),
        ("part", {"part": 1}),
        ("units_out", {"units_out": 5, "cost": 240}),
        ("units_out", {"units_out": 2, "cost": 180}),
        ("units_in", {"units_in": 9, "cost": 190}),
        ("units_cached", {"units_in": 9, "units_cached": 1, "cost": 185}),
        ("response_hash", {"response_hash": b"\x06" * 32}),
        ("ended_at", {"ended_at": NOW - 122}),
        ("ended_at", {"ended_at": NOW + 121}),
        ("ttft_ms", {"ttft_ms": 401}),
        ("cost", {"cost": GOOD.cost + 1}),
        ("cost", {"cost": GOOD.cost - 1}),
    ],
)
def test_stored_receipt_wrong_in_one_field_is_rejected(field: str, changes: dict[str, Any]) -> None:
    received = answer()
    received.check(replace(GOOD, final=False), elapsed_ms=500, now=NOW)
    received.check(replace(GOOD, final=False, part=1), elapsed_ms=500, now=NOW)
    with pytest.raises(ReceiptRejected) as rejection:
        stored(replace(GOOD, **{"part": 2, **changes}), received=received, unseen=5)
    assert rejection.value.field == field


def test_an_engine_not_our_own_may_leave_probabilities_out() -> None:
    unstated = StreamToken(5, -(1 << 31))
    Answer(replace(AGREEMENT, states_probabilities=False)).add(unstated, 10)
    with pytest.raises(ReceiptRejected):
        Answer(AGREEMENT).add(unstated, 10)
