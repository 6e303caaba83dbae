"""LeaseEscrow.withdraw."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import check_account, check_books, only_event
from tests.contracts.ape.market import DEPOSIT, USD, ZERO_ADDRESS, Market


def test_withdraw__part_of_an_account__pays_and_debits(market: Market, consumer: Any, stranger: Any) -> None:
    before = market.escrow.accounts(consumer, market.usdc)
    receipt = market.escrow.withdraw(market.usdc, 3 * USD, stranger, sender=consumer)
    check_account(market, consumer, before - 3 * USD)
    assert market.usdc.balanceOf(stranger) == 3 * USD
    event = only_event(receipt, market.escrow.Withdrawn)
    assert (event.owner, event.token, event.to, event.amount) == (consumer, market.usdc, stranger, 3 * USD)
    check_books(market, [consumer], [])


def test_withdraw__all_of_it__leaves_nothing(market: Market, consumer: Any) -> None:
    balance = market.escrow.accounts(consumer, market.usdc)
    market.escrow.withdraw(market.usdc, balance, consumer, sender=consumer)
    check_account(market, consumer, 0)


def test_withdraw__more_than_the_account__reverts(market: Market, consumer: Any) -> None:
    balance = market.escrow.accounts(consumer, market.usdc)
    with ape.reverts("escrow: account too low"):
        market.escrow.withdraw(market.usdc, balance + 1, consumer, sender=consumer)


def test_withdraw__what_a_lease_reserves__reverts(market: Market, consumer: Any) -> None:
    market.open()
    balance = market.escrow.accounts(consumer, market.usdc)
    with ape.reverts("escrow: account too low"):
        market.escrow.withdraw(market.usdc, balance + DEPOSIT, consumer, sender=consumer)


def test_withdraw__of_another_account__reverts(market: Market, stranger: Any) -> None:
    with ape.reverts("escrow: account too low"):
        market.escrow.withdraw(market.usdc, 1, stranger, sender=stranger)


@pytest.mark.parametrize("to", ["zero", "escrow"])
def test_withdraw__to_a_receiver_that_would_lose_it__reverts(market: Market, consumer: Any, to: str) -> None:
    receiver = ZERO_ADDRESS if to == "zero" else market.escrow
    with ape.reverts("escrow: bad receiver"):
        market.escrow.withdraw(market.usdc, 1, receiver, sender=consumer)


def test_withdraw__token_delisted__still_pays(market: Market, consumer: Any) -> None:
    market.params.list_token(market.usdc, False, sender=market.deployer)
    market.escrow.withdraw(market.usdc, USD, consumer, sender=consumer)
    assert market.usdc.balanceOf(consumer) == USD


def test_withdraw__tokens_sent_without_a_deposit__belong_to_nobody(market: Market, stranger: Any) -> None:
    market.usdc.mint(market.escrow, USD, sender=stranger)
    with ape.reverts("escrow: account too low"):
        market.escrow.withdraw(market.usdc, 1, stranger, sender=stranger)
