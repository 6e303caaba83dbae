"""ClawToken: the yearly mint cap, permit, and who owns it."""

from __future__ import annotations

from typing import Any

import boa
import pytest
from eth_account import Account

from tests.contracts.boa.chain import account, events, pass_time
from tests.contracts.boa.market import CLAW, Market, signer

SUPPLY = 10**9 * CLAW
CAP = SUPPLY // 20
YEAR = 365 * 86_400


def test_deployment__gives_everything_to_the_deployer(market: Market) -> None:
    claw = market.claw
    assert (claw.name(), claw.symbol(), claw.decimals()) == ("OpenClaw", "CLAW", 18)
    assert claw.totalSupply() == claw.balanceOf(market.admin) == SUPPLY
    assert claw.owner() == market.admin


def test_mint__up_to_the_cap__succeeds_and_not_beyond(market: Market) -> None:
    receiver = account("receiver")
    with boa.env.prank(market.admin):
        market.claw.mint(receiver, CAP - 1)
        assert events(market.claw, "Minted") == [(receiver, 0, CAP - 1, CAP - 1, CAP)]
        assert market.claw.mintable() == 1
        market.claw.mint(receiver, 1)
        with boa.reverts("clawtoken: yearly mint cap exceeded"):
            market.claw.mint(receiver, 1)
    assert market.claw.balanceOf(receiver) == CAP
    assert market.claw.totalSupply() == SUPPLY + CAP


def test_mint__by_a_stranger__reverts(market: Market) -> None:
    with boa.env.prank(account("stranger")), boa.reverts("ownable: caller is not the owner"):
        market.claw.mint(account("stranger"), 1)


@pytest.mark.parametrize(("years", "at"), [(1, 0), (3, 17)])
def test_mint__in_a_later_year__has_that_years_cap_and_no_arrears(market: Market, years: int, at: int) -> None:
    with boa.env.prank(market.admin):
        market.claw.mint(market.admin, CAP)
        pass_time(market.claw.genesis() + years * YEAR + at - market.now())
        cap = (SUPPLY + CAP) // 20
        assert market.claw.mintable() == cap
        with boa.reverts("clawtoken: yearly mint cap exceeded"):
            market.claw.mint(market.admin, cap + 1)
        market.claw.mint(market.admin, cap)
    assert market.claw.mintable() == 0


def test_mint__one_second_before_the_year_ends__still_counts_to_it(market: Market) -> None:
    with boa.env.prank(market.admin):
        market.claw.mint(market.admin, CAP)
        pass_time(market.claw.genesis() + YEAR - 1 - market.now())
        with boa.reverts("clawtoken: yearly mint cap exceeded"):
            market.claw.mint(market.admin, 1)


def test_burn__within_a_year__gives_no_room_back(market: Market) -> None:
    with boa.env.prank(market.admin):
        market.claw.mint(market.admin, CAP)
        market.claw.burn(CAP)
        assert market.claw.mintable() == 0


def test_burn__before_the_years_first_mint__lowers_the_cap(market: Market) -> None:
    with boa.env.prank(market.admin):
        pass_time(YEAR)
        market.claw.burn(SUPPLY // 2)
        assert market.claw.mintable() == CAP // 2


def test_abi__has_no_other_way_to_mint(market: Market) -> None:
    names = {entry["name"] for entry in market.claw.abi if entry["type"] == "function"}
    assert not names & {"set_minter", "is_minter"}
    assert "mint" in names


def test_accept_ownership__moves_the_right_to_mint(market: Market) -> None:
    timelock = account("timelock")
    with boa.env.prank(market.admin):
        market.claw.transfer_ownership(timelock)
    with boa.env.prank(timelock):
        market.claw.accept_ownership()
        market.claw.mint(timelock, 1)
    with boa.env.prank(market.admin), boa.reverts("ownable: caller is not the owner"):
        market.claw.mint(market.admin, 1)


def test_permit__signed_by_the_owner__approves_once(market: Market) -> None:
    owner, spender = signer("claw holder"), account("spender")
    args = _permit(market, owner, spender, 5 * CLAW, market.now())
    market.claw.permit(*args)
    assert market.claw.allowance(owner.address, spender) == 5 * CLAW
    with boa.reverts("erc20: invalid signature"):
        market.claw.permit(*args)


def test_permit__expired__reverts(market: Market) -> None:
    args = _permit(market, signer("claw holder"), account("spender"), 1, market.now() - 1)
    with boa.reverts("erc20: expired deadline"):
        market.claw.permit(*args)


def _permit(market: Market, owner: Any, spender: str, value: int, deadline: int) -> tuple[Any, ...]:
    domain = {
        "name": "OpenClaw",
        "version": "1",
        "chainId": boa.env.evm.patch.chain_id,
        "verifyingContract": str(market.claw.address),
    }
    fields = {"owner": "address", "spender": "address", "value": "uint256", "nonce": "uint256", "deadline": "uint256"}
    message = {
        "owner": owner.address,
        "spender": spender,
        "value": value,
        "nonce": market.claw.nonces(owner.address),
        "deadline": deadline,
    }
    types = {"Permit": [{"name": name, "type": kind} for name, kind in fields.items()]}
    signed = Account.sign_typed_data(owner.private_key, domain, types, message)
    return (
        owner.address,
        spender,
        value,
        deadline,
        signed.v,
        signed.r.to_bytes(32, "big"),
        signed.s.to_bytes(32, "big"),
    )
