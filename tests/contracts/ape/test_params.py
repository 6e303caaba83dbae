"""Params: limits, pace and the token list. Its edges are fuzzed in boa/."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import only_event
from tests.contracts.ape.market import CLAW, DAY, ZERO_ADDRESS, Market


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (0, 500, "params: value unchanged"),
        (0, 601, "params: step too large"),
        (2, 0, "params: below floor"),
        (2, 7, "params: above ceiling"),
        (9, 1, "params: unknown key"),
    ],
)
def test_set__outside_the_limits__reverts(market: Market, key: int, value: int, reason: str) -> None:
    with ape.reverts(reason):
        market.params.set(key, value, sender=market.deployer)


def test_set__one_step__is_in_force_and_waits_7_days_for_the_next(market: Market) -> None:
    receipt = market.params.set(0, 600, sender=market.deployer)
    event = only_event(receipt, market.params.ParameterChanged)
    assert (event.key, event.old_value, event.new_value) == (0, 500, 600)
    assert market.params.get(0) == 600
    assert market.params.changed_at(0) == receipt.timestamp
    assert tuple(market.params.open_terms(market.usdc)) == (600, 10_000 * CLAW, True)
    with ape.reverts("params: changed within 7 days"):
        market.params.set(0, 700, sender=market.deployer)
    market.params.set(3, 20_000 * CLAW, sender=market.deployer)
    assert tuple(market.params.open_terms(market.usdc)) == (600, 20_000 * CLAW, True)
    market.travel(7 * DAY)
    market.params.set(0, 700, sender=market.deployer)


def test_bounds__of_each_key__hold_its_value(market: Market) -> None:
    for key in range(9):
        floor, ceiling, step = market.params.bounds(key)
        assert floor <= market.params.get(key) <= ceiling
        assert step > 0


def test_list_token__more_than_8_ever__reverts(market: Market, project: Any) -> None:
    assert list(market.params.tokens()) == [market.usdc, market.claw]
    for _ in range(6):
        token = market.deployer.deploy(project.NoReturnToken)
        market.params.list_token(token, True, sender=market.deployer)
    market.params.list_token(token, False, sender=market.deployer)
    with ape.reverts("params: too many tokens"):
        market.params.list_token(market.escrow, True, sender=market.deployer)


def test_list_token__without_code__reverts(market: Market, stranger: Any) -> None:
    with ape.reverts("params: token is not a contract"):
        market.params.list_token(stranger, True, sender=market.deployer)


def test_set_treasury__zero__reverts(market: Market) -> None:
    with ape.reverts("params: treasury is the zero address"):
        market.params.set_treasury(ZERO_ADDRESS, sender=market.deployer)


def test_ownership__handed_over__needs_both_steps(market: Market, stranger: Any) -> None:
    market.params.transfer_ownership(stranger, sender=market.deployer)
    assert (market.params.owner(), market.params.pending_owner()) == (market.deployer, stranger)
    market.params.accept_ownership(sender=stranger)
    market.params.set(0, 600, sender=stranger)
