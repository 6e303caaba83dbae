"""ClawToken: the yearly mint cap."""

from __future__ import annotations

from typing import Any

import ape

from tests.contracts.ape.market import CLAW, DAY, Market

CAP = 50_000_000 * CLAW


def test_mint__within_the_year__stops_at_5_percent_of_its_start(market: Market, stranger: Any) -> None:
    assert market.claw.mintable() == CAP
    market.claw.mint(stranger, CAP - 1, sender=market.deployer)
    with ape.reverts("clawtoken: yearly mint cap exceeded"):
        market.claw.mint(stranger, 2, sender=market.deployer)
    market.claw.mint(stranger, 1, sender=market.deployer)
    assert market.claw.mintable() == 0
    assert market.claw.balanceOf(stranger) == CAP


def test_mint__next_year__counts_from_the_supply_then(market: Market, stranger: Any) -> None:
    market.claw.mint(stranger, CAP, sender=market.deployer)
    market.travel_to(market.claw.genesis() + 365 * DAY)
    assert market.claw.mintable() == CAP * 105 // 100
    market.claw.mint(stranger, CAP * 105 // 100, sender=market.deployer)
    assert market.claw.mintable() == 0
