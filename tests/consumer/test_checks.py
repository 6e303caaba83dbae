"""A receipt that is wrong in any one field is not paid."""

from dataclasses import replace
from typing import Any

import pytest

from consumer.checks import TIME_TOLERANCE_MS, Agreement, Answer, most_cost, prompt_bound, prompt_cost
from consumer.exceptions import ReceiptRejected
from protocol.headers import Signed
from protocol.merkle import response_root
from protocol.signing import Signer
from protocol.stream import StreamToken
from protocol.typed_data import Domain, Receipt, Terms

DOMAIN = Domain(31337, "0x5FC8d32690cc91D4c39d9d3abcBD16989F875707")
NODE = Signer(b"\x11" * 32)
TERMS = Terms(0, "0x" + "1" * 40, 10, 30, 5, 1, 1_000, 0, 5_000, 0, bytes(32))
NOW = 1_700_000_000
TOKENS = [StreamToken(5, -100), StreamToken(6, -200), StreamToken(7, -300)]
AGREEMENT = Agreement(DOMAIN, NODE.address, TERMS, b"\x09" * 32, b"\x01" * 32, 4, b"\x05" * 32, 1_000, 10, 300)
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


def signed(receipt: Receipt, signer: Signer = NODE) -> Signed[Receipt]:
    return Signed(receipt, signer.sign(DOMAIN, receipt))


def answer(agreement: Agreement = AGREEMENT) -> Answer:
    received = Answer(agreement)
    for number, token in enumerate(TOKENS):
        received.add(token, 110 + number)
    return received


def check(receipt: Receipt, agreement: Agreement = AGREEMENT) -> Receipt:
    return answer(agreement).check(signed(receipt), elapsed_ms=500, now=NOW)


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


@pytest.mark.parametrize("signer", [Signer(b"\x12" * 32)])
def test_receipt_by_another_key_is_rejected(signer: Signer) -> None:
    with pytest.raises(ReceiptRejected, match="node key"):
        answer().check(signed(GOOD, signer), elapsed_ms=500, now=NOW)


def test_receipt_of_another_chain_is_rejected() -> None:
    other = Domain(1, DOMAIN.escrow)
    with pytest.raises(ReceiptRejected, match="node key"):
        answer().check(Signed(GOOD, NODE.sign(other, GOOD)), elapsed_ms=500, now=NOW)


def test_sla_credit_of_the_receipts_own_times_is_demanded() -> None:
    slow = replace(GOOD, ttft_ms=1_001, duration_ms=1_200)
    received = Answer(AGREEMENT)
    for token in TOKENS:
        received.add(token, 1_100)
    with pytest.raises(ReceiptRejected) as rejection:
        received.check(signed(slow), elapsed_ms=1_300, now=NOW)
    assert rejection.value.field == "cost"
    half = replace(slow, cost=GOOD.cost - GOOD.cost // 2)
    assert received.check(signed(half), elapsed_ms=1_300, now=NOW) == half


def test_cost_above_what_was_authorised_is_rejected() -> None:
    with pytest.raises(ReceiptRejected, match="authorised"):
        check(GOOD, replace(AGREEMENT, max_cost=GOOD.cost - 1))


def test_without_tokenizer_the_bound_holds() -> None:
    agreement = replace(AGREEMENT, prompt_tokens=None, prompt_bound=10)
    assert check(GOOD, agreement) == GOOD
    with pytest.raises(ReceiptRejected) as rejection:
        check(replace(GOOD, units_in=9), agreement)
    assert rejection.value.field == "units_in"


def test_parts_may_not_fall_nor_skip() -> None:
    received = answer()
    part = replace(GOOD, final=False)
    received.check(signed(part), elapsed_ms=500, now=NOW)
    wrong: list[tuple[dict[str, Any], str]] = [({"part": 2}, "part"), ({"part": 1, "cost": 0}, "cost")]
    for changes, field in wrong:
        with pytest.raises(ReceiptRejected) as rejection:
            received.check(signed(replace(GOOD, **changes)), elapsed_ms=500, now=NOW)
        assert rejection.value.field == field
    moved = replace(GOOD, part=1, units_in=9, units_cached=1, cost=185)
    with pytest.raises(ReceiptRejected) as rejection:
        received.check(signed(moved), elapsed_ms=500, now=NOW)
    assert rejection.value.field == "units_cached"
    received.check(signed(replace(GOOD, part=1)), elapsed_ms=500, now=NOW)


def test_bounds_of_costs() -> None:
    assert most_cost(TERMS, 10, 4) == 220
    assert prompt_cost(replace(TERMS, unit_scale=3), 10) == 34
    assert prompt_cost(replace(TERMS, price_cached=20), 10) == 200
    assert prompt_bound([{"role": "user", "content": "é" * 10}]) > 24
