"""Who may start, who waits: the bounds of what a provider can lose and a lease can owe."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.headers import RefusalCode
from protocol.typed_data import Terms
from provider.exceptions import Refusal
from provider.exposure import CreditPolicy, LeaseExposure, OwnerExposure
from provider.metering import Meter

TERMS = Terms(0, "0x" + "11" * 20, 10, 30, 5, 1, 0, 0, 0, 0, b"\x01" * 32)


def exposure(**figures: int) -> LeaseExposure:
    start = LeaseExposure(deposit=1_000, credit_cap=100, served=0, cumulative=0)
    for name, value in figures.items():
        setattr(start, name, value)
    return start


@given(st.integers(0, 1_000), st.integers(0, 1_000), st.lists(st.integers(0, 300), max_size=5), st.integers(0, 1_000))
def test_admitted_requests_never_exceed_the_deposit(served: int, paid: int, running: list[int], max_cost: int) -> None:
    lease = exposure(served=served, cumulative=paid, credit_cap=10**6)
    for seq, cost in enumerate(running):
        lease.begin(seq, cost)
    if max(served, paid) + sum(running) + max_cost <= 1_000:
        lease.check_admission(max_cost, 0, paid)
        return
    with pytest.raises(Refusal) as refusal:
        lease.check_admission(max_cost, 0, paid)
    assert refusal.value.code is RefusalCode.OVERDRAWN


def test_prompt_beyond_the_credit_cap_is_prepaid() -> None:
    lease = exposure()
    lease.check_admission(200, 100, 0)
    with pytest.raises(Refusal) as refusal:
        lease.check_admission(200, 101, 0)
    assert refusal.value.code is RefusalCode.PREPAY
    lease.check_admission(200, 101, 1)


def test_unpaid_value_stops_new_requests() -> None:
    lease = exposure(served=101)
    with pytest.raises(Refusal) as refusal:
        lease.check_admission(10, 0, 0)
    assert refusal.value.code is RefusalCode.UNPAID
    lease.check_admission(10, 0, 1)


def test_serving_stops_exactly_at_the_cap() -> None:
    lease = exposure(served=40)
    first, second = lease.begin(1, 500), lease.begin(2, 400)
    first.cost = 30
    assert lease.may_serve(second, 30)
    assert not lease.may_serve(second, 31)
    lease.pay(5)
    assert lease.may_serve(second, 35)
    assert not lease.may_serve(second, 36)


def test_finishing_moves_cost_to_served() -> None:
    lease = exposure()
    request = lease.begin(1, 500)
    request.cost = 30
    assert (lease.value, lease.promised) == (30, 470)
    lease.finish(1, 20)
    assert (lease.value, lease.promised, lease.served) == (20, 0, 20)


async def test_payment_wakes_who_waits() -> None:
    lease = exposure()
    changed = lease.changed
    waiting = asyncio.create_task(changed.wait())
    await asyncio.sleep(0)
    lease.pay(1)
    await asyncio.wait_for(waiting, 1)
    assert not lease.changed.is_set()


def test_credit_grows_with_what_was_settled() -> None:
    policy = CreditPolicy(stranger=100, growth_bps=1_000, maximum=500)
    assert [policy.cap(settled) for settled in (0, 9, 10, 1_000, 10**9)] == [100, 100, 101, 200, 500]


def of_owner(owner: OwnerExposure, **figures: int) -> LeaseExposure:
    return LeaseExposure(10_000, 100, figures.get("served", 0), figures.get("cumulative", 0), owner=owner)


def test_leases_of_one_owner_share_its_cap() -> None:
    owner = OwnerExposure()
    first, second = of_owner(owner), of_owner(owner)
    running = first.begin(1, 500)
    running.cost = 70
    with pytest.raises(Refusal) as refusal:
        second.check_admission(200, 31, 0)
    assert refusal.value.details["owed_on_other_leases"] == "70"
    second.check_admission(200, 30, 0)
    other = second.begin(1, 200, 30)
    assert second.may_serve(other, 30)
    assert not second.may_serve(other, 31)
    first.pay(10)
    assert second.may_serve(other, 40)
    assert not second.may_serve(other, 41)
    first.finish(1, 70)
    assert second.owed_elsewhere == 60
    of_owner(OwnerExposure()).check_admission(200, 100, 0)


def test_value_unpaid_before_a_restart_counts_until_its_lease_is_used_again() -> None:
    owner = OwnerExposure({b"a": 80})
    lease = of_owner(owner)
    with pytest.raises(Refusal):
        lease.check_admission(200, 21, 0)
    lease.check_admission(200, 20, 0)


def test_paying_ahead_on_one_lease_covers_no_other_and_adds_no_risk() -> None:
    owner = OwnerExposure()
    ahead, behind = of_owner(owner, cumulative=1_000), of_owner(owner, served=100)
    assert behind.unpaid == 100
    with pytest.raises(Refusal):
        behind.check_admission(10, 1, 0)
    ahead.check_admission(1_500, 1_000, 1_000)
    assert ahead.may_serve(ahead.begin(1, 1_500), 1_000)


async def test_payment_on_one_lease_wakes_the_owners_others() -> None:
    owner = OwnerExposure()
    first, second = of_owner(owner), of_owner(owner)
    waiting = asyncio.create_task(second.changed.wait())
    await asyncio.sleep(0)
    first.pay(1)
    await asyncio.wait_for(waiting, 1)


def test_prompts_of_running_requests_count_before_their_first_token() -> None:
    lease = exposure()
    for seq in range(3):
        lease.check_admission(200, 30, 0)
        lease.begin(seq, 200, 30)
    assert (lease.value, lease.unpaid) == (0, 90)
    with pytest.raises(Refusal):
        lease.check_admission(200, 30, 0)
    lease.finish(0, 0)
    lease.check_admission(200, 30, 0)


def test_possible_sla_credit_counts_against_the_cap() -> None:
    """Receipts charge half while the credit may fall due; the consumer pays each, and the other half stays unpaid."""
    terms = replace(TERMS, sla_milli_tokens_per_s=1, sla_credit_bps=5_000)
    lease, meter = exposure(deposit=10**6), Meter(terms, b"\x01" * 32, 0, b"\x02" * 32, b"\x03" * 32, 10**6)
    request = lease.begin(0, 10**6)
    meter.start(1, 0)
    while lease.may_serve(request, meter.gross_with_next()):
        meter.add(1, -1.0, 0)
        request.cost, request.gross = meter.cost, meter.gross
        lease.pay(meter.cost)
    meter.receipt(final=True, duration_ms=0, ended_at=1)
    lease.finish(0, meter.cost)
    assert meter.cost == meter.gross > lease.cumulative
    assert lease.unpaid <= lease.credit_cap


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["begin", "serve", "pay", "finish"]), st.integers(0, 120)),
        max_size=60,
    )
)
def test_owner_never_owes_more_than_its_cap(steps: list[tuple[int, str, int]]) -> None:
    owner = OwnerExposure()
    leases = [of_owner(owner) for _ in range(3)]
    for seq, (index, step, amount) in enumerate(steps):
        lease = leases[index]
        running = next(iter(lease.running.items()), None)
        if step == "begin":
            with contextlib.suppress(Refusal):
                lease.check_admission(amount, amount, lease.cumulative)
                lease.begin(seq, amount, amount)
        elif step == "pay":
            lease.pay(lease.cumulative + amount)
        elif running and step == "serve":
            if lease.may_serve(running[1], running[1].at_risk + amount):
                running[1].gross = running[1].at_risk + amount
        elif running:
            lease.finish(running[0], running[1].at_risk)
        assert sum(one.unpaid for one in leases) <= 100
