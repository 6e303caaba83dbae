"""Params: limits, pace, listing, hand-over."""

from __future__ import annotations

import boa
import pytest

from tests.contracts.boa.chain import ZERO, account, events, pass_time
from tests.contracts.boa.market import CLAW, CONTRACTS, DAY, Market, deployer

WEEK = 7 * DAY

# key: default, floor, ceiling, largest step
TABLE = {
    0: (500, 0, 1_000, 100),
    1: (5_000, 0, 10_000, 1_000),
    2: (3, 1, 6, 1),
    3: (10_000 * CLAW, 100 * CLAW, 1_000_000 * CLAW, 10_000 * CLAW),
    4: (21 * DAY, 21 * DAY, 60 * DAY, 7 * DAY),
    5: (1_000, 10, 1_000, 250),
    6: (5_000, 1_000, 10_000, 2_500),
    7: (5_000, 1_000, 10_000, 2_500),
    8: (5_000, 1_000, 10_000, 2_500),
}


@pytest.mark.parametrize("key", TABLE)
def test_get__at_deployment__gives_the_default(market: Market, key: int) -> None:
    assert market.params.get(key) == TABLE[key][0]
    assert market.params.changed_at(key) == 0


@pytest.mark.parametrize("key", TABLE)
def test_bounds__of_every_key__are_those_of_the_design(market: Market, key: int) -> None:
    assert market.params.bounds(key) == TABLE[key][1:]


@pytest.mark.parametrize("key", TABLE)
def test_set__walked_to_both_ends__stops_at_floor_and_ceiling(market: Market, key: int) -> None:
    value, floor, ceiling, step = TABLE[key]
    with boa.env.prank(market.admin):
        for end, sign in ((ceiling, 1), (floor, -1)):
            while value != end:
                value = min(value + step, end) if sign > 0 else max(value - step, end)
                market.params.set(key, value)
                pass_time(WEEK)
            assert market.params.get(key) == end
            if value + sign >= 0:
                with boa.reverts("params: above ceiling" if sign > 0 else "params: below floor"):
                    market.params.set(key, value + sign)


@pytest.mark.parametrize("key", TABLE)
def test_set__by_more_than_one_step__reverts(market: Market, key: int) -> None:
    value, floor, ceiling, step = TABLE[key]
    target = value + step + 1 if value + step + 1 <= ceiling else value - step - 1
    assert floor <= target <= ceiling
    with boa.env.prank(market.admin), boa.reverts("params: step too large"):
        market.params.set(key, target)


def test_set__again_within_seven_days__reverts(market: Market) -> None:
    with boa.env.prank(market.admin):
        market.params.set(0, 450)
        pass_time(WEEK - 1)
        with boa.reverts("params: changed within 7 days"):
            market.params.set(0, 500)
        market.params.set(2, 4)
        pass_time(1)
        market.params.set(0, 500)
    assert market.params.get(0) == 500
    assert market.params.changed_at(0) == market.now()


def test_set__to_the_same_value__reverts(market: Market) -> None:
    with boa.env.prank(market.admin), boa.reverts("params: value unchanged"):
        market.params.set(0, 500)


def test_set__by_a_stranger__reverts(market: Market) -> None:
    with boa.env.prank(account("stranger")), boa.reverts("ownable: caller is not the owner"):
        market.params.set(0, 450)


def test_set__within_limits__logs_old_and_new(market: Market) -> None:
    with boa.env.prank(market.admin):
        market.params.set(0, 450)
    assert events(market.params, "ParameterChanged") == [(0, 500, 450)]


@pytest.mark.parametrize("call", ["get", "bounds", "changed_at"])
def test_views__of_an_unknown_key__revert(market: Market, call: str) -> None:
    with boa.reverts("params: unknown key"):
        getattr(market.params, call)(9)


def test_set__of_an_unknown_key__reverts(market: Market) -> None:
    with boa.env.prank(market.admin), boa.reverts("params: unknown key"):
        market.params.set(9, 1)


def test_list_token__on_and_off__shows_in_open_terms(market: Market) -> None:
    token = market.anchor.address
    assert market.params.open_terms(token) == (500, 10_000 * CLAW, False)
    with boa.env.prank(market.admin):
        market.params.list_token(token, True)
        assert events(market.params, "TokenListingChanged") == [(token, True)]
        assert market.params.open_terms(token) == (500, 10_000 * CLAW, True)
        market.params.list_token(token, False)
    assert not market.params.token_listed(token)


def test_list_token__a_ninth_ever__reverts_also_after_delisting(market: Market) -> None:
    tokens = [market.usdc.address, market.claw.address]
    with boa.env.prank(market.admin):
        for _ in range(6):
            tokens.append(deployer(CONTRACTS / "mocks", "NoReturnToken").deploy().address)
            market.params.list_token(tokens[-1], True)
        market.params.list_token(tokens[-1], False)
        with boa.reverts("params: too many tokens"):
            market.params.list_token(market.anchor.address, True)
        market.params.list_token(tokens[-1], True)
    assert market.params.tokens() == tokens


def test_list_token__without_code__reverts(market: Market) -> None:
    with boa.env.prank(market.admin), boa.reverts("params: token is not a contract"):
        market.params.list_token(account("nobody"), True)


def test_list_token__by_a_stranger__reverts(market: Market) -> None:
    with boa.env.prank(account("stranger")), boa.reverts("ownable: caller is not the owner"):
        market.params.list_token(market.anchor.address, True)


def test_set_treasury__by_the_owner__changes_it(market: Market) -> None:
    new = account("new treasury")
    with boa.env.prank(market.admin):
        market.params.set_treasury(new)
    assert events(market.params, "TreasuryChanged") == [(market.treasury, new)]
    assert market.params.treasury() == new


def test_set_treasury__zero_or_by_a_stranger__reverts(market: Market) -> None:
    with boa.env.prank(market.admin), boa.reverts("params: treasury is the zero address"):
        market.params.set_treasury(ZERO)
    with boa.env.prank(account("stranger")), boa.reverts("ownable: caller is not the owner"):
        market.params.set_treasury(account("stranger"))


def test_accept_ownership__after_a_transfer__moves_the_power(market: Market) -> None:
    timelock = account("timelock")
    with boa.env.prank(market.admin):
        market.params.transfer_ownership(timelock)
        market.params.set(0, 450)
    with boa.env.prank(account("stranger")), boa.reverts("ownable_2step: caller is not the new owner"):
        market.params.accept_ownership()
    with boa.env.prank(timelock):
        market.params.accept_ownership()
        market.params.set(2, 4)
    with boa.env.prank(market.admin), boa.reverts("ownable: caller is not the owner"):
        market.params.set(4, 28 * DAY)
