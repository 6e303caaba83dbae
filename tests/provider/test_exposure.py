"""Who may start, who waits: the bounds of what a provider can lose and a lease can owe."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.headers import RefusalCode
from provider.exceptions import Refusal
from provider.exposure import CreditPolicy, LeaseExposure


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
