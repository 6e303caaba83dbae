"""Small steps that unit tests share: accounts, time, and the events of the last call."""

from __future__ import annotations

from typing import Any

import boa

from protocol.address import to_address
from protocol.hashing import keccak
from tests.contracts.boa.market import CONTRACTS, Market, deployer

ZERO = "0x" + "00" * 20


def account(name: str) -> str:
    """An address that depends on the name alone."""
    return to_address(keccak(name.encode())[12:])


def pass_time(seconds: int) -> None:
    """Move the clock; every later call happens then."""
    boa.env.evm.patch.timestamp += seconds


def events(contract: Any, name: str) -> list[tuple[Any, ...]]:
    """The events of that name from the contract's last call, each as the tuple of its fields in the
    order of their declaration, indexed ones first."""
    return [tuple(log)[1:] for log in contract.get_logs() if type(log).__name__ == name]


def credit_stakers(market: Market, token: Any, amount: int) -> None:
    """Put an amount into Staking's account at the escrow, where fees arrive, from the admin's wallet."""
    with boa.env.prank(market.admin):
        token.approve(market.escrow.address, amount)
        market.escrow.deposit(token.address, amount, market.staking.address)


def stream(market: Market, token: Any, amount: int) -> int:
    """Credit the stakers and pull; returns what arrived."""
    credit_stakers(market, token, amount)
    return int(market.staking.pull_fees(token.address))


def weird_token(market: Market, name: str, amount: int = 2**128) -> Any:
    """A listed token from `contracts/mocks`, the amount in the admin's wallet."""
    token = deployer(CONTRACTS / "mocks", name).deploy()
    token.mint(market.admin, amount)
    with boa.env.prank(market.admin):
        market.params.list_token(token.address, True)
    return token
