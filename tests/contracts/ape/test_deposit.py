"""LeaseEscrow.deposit and deposit_with_permit."""

from __future__ import annotations

from typing import Any

import ape
import pytest
from eth_account import Account

from tests.contracts.ape.checks import check_account, check_books, only_event
from tests.contracts.ape.market import USD, ZERO32, ZERO_ADDRESS, Market


def permit(market: Market, owner: Any, amount: int, **changes: Any) -> tuple[int, int, bytes, bytes]:
    """(deadline, v, r, s) of an EIP-2612 permit of test dollars to the escrow."""
    deadline = changes.get("deadline", market.now() + 600)
    fields = [("owner", "address"), ("spender", "address"), ("value", "uint256")]
    fields += [("nonce", "uint256"), ("deadline", "uint256")]
    signed = Account.sign_typed_data(
        changes.get("key", owner).private_key,
        {
            "name": "Test USD Coin",
            "version": "1",
            "chainId": market.domain.chain_id,
            "verifyingContract": market.usdc.address,
        },
        {"Permit": [{"name": name, "type": kind} for name, kind in fields]},
        {
            "owner": owner.address,
            "spender": market.escrow.address,
            "value": amount,
            "nonce": market.usdc.nonces(owner),
            "deadline": deadline,
        },
    )
    return deadline, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")


def test_deposit__for_oneself__moves_tokens_and_credits(market: Market, stranger: Any) -> None:
    market.give(market.usdc, stranger, 30 * USD)
    receipt = market.escrow.deposit(market.usdc, 20 * USD, stranger, sender=stranger)
    check_account(market, stranger, 20 * USD)
    assert market.usdc.balanceOf(stranger) == 10 * USD
    event = only_event(receipt, market.escrow.Deposited)
    assert (event.caller, event.receiver, event.token, event.amount) == (stranger, stranger, market.usdc, 20 * USD)
    check_books(market, [market.consumer, stranger], [])


def test_deposit__for_another__credits_the_receiver_alone(market: Market, stranger: Any) -> None:
    market.give(market.usdc, stranger, 5 * USD)
    before = market.escrow.accounts(market.consumer, market.usdc)
    market.escrow.deposit(market.usdc, 5 * USD, market.consumer, sender=stranger)
    check_account(market, market.consumer, before + 5 * USD)
    check_account(market, stranger, 0)


def test_deposit__first_of_a_token__gives_it_the_next_id(market: Market, consumer: Any) -> None:
    assert market.escrow.token_ids(market.usdc) == 1
    assert market.escrow.token_ids(market.claw) == 0
    market.give(market.claw, consumer, 1)
    receipt = market.escrow.deposit(market.claw, 1, consumer, sender=consumer)
    assert only_event(receipt, market.escrow.TokenAdmitted).token_id == 2
    assert market.escrow.tokens(2) == market.claw.address


def test_deposit__token_not_listed__reverts(market: Market, consumer: Any) -> None:
    market.params.list_token(market.usdc, False, sender=market.deployer)
    with ape.reverts("escrow: token not listed"):
        market.escrow.deposit(market.usdc, 1, consumer, sender=consumer)


def test_deposit__nothing__reverts(market: Market, consumer: Any) -> None:
    with ape.reverts("escrow: nothing to deposit"):
        market.escrow.deposit(market.usdc, 0, consumer, sender=consumer)


@pytest.mark.parametrize("to", ["zero", "escrow"])
def test_deposit__to_a_receiver_that_would_lose_it__reverts(market: Market, consumer: Any, to: str) -> None:
    receiver = ZERO_ADDRESS if to == "zero" else market.escrow
    with ape.reverts("escrow: bad receiver"):
        market.escrow.deposit(market.usdc, 1, receiver, sender=consumer)


def test_deposit__without_allowance__reverts(market: Market, stranger: Any) -> None:
    market.usdc.mint(stranger, USD, sender=stranger)
    with ape.reverts():
        market.escrow.deposit(market.usdc, USD, stranger, sender=stranger)
    check_account(market, stranger, 0)


def test_deposit_with_permit__fresh_permit__needs_no_approval(market: Market, stranger: Any) -> None:
    market.usdc.mint(stranger, 7 * USD, sender=stranger)
    market.escrow.deposit_with_permit(market.usdc, 7 * USD, *permit(market, stranger, 7 * USD), sender=stranger)
    check_account(market, stranger, 7 * USD)
    assert market.usdc.allowance(stranger, market.escrow) == 0


def test_deposit_with_permit__permit_used_already__deposits_by_the_allowance_it_left(
    market: Market, stranger: Any, consumer: Any
) -> None:
    market.usdc.mint(stranger, 7 * USD, sender=stranger)
    deadline, v, r, s = permit(market, stranger, 7 * USD)
    market.usdc.permit(stranger, market.escrow, 7 * USD, deadline, v, r, s, sender=consumer)
    market.escrow.deposit_with_permit(market.usdc, 7 * USD, deadline, v, r, s, sender=stranger)
    check_account(market, stranger, 7 * USD)


def test_deposit_with_permit__copied_by_another__credits_nobody(market: Market, stranger: Any, consumer: Any) -> None:
    market.usdc.mint(stranger, 7 * USD, sender=stranger)
    signed = permit(market, stranger, 7 * USD)
    market.usdc.approve(market.escrow, 0, sender=consumer)
    with ape.reverts("escrow: permit failed and allowance too low"):
        market.escrow.deposit_with_permit(market.usdc, 7 * USD, *signed, sender=consumer)
    assert market.usdc.balanceOf(stranger) == 7 * USD


def test_deposit_with_permit__expired_and_no_allowance__reverts(market: Market, stranger: Any) -> None:
    market.usdc.mint(stranger, USD, sender=stranger)
    signed = permit(market, stranger, USD, deadline=market.now() - 1)
    with ape.reverts("escrow: permit failed and allowance too low"):
        market.escrow.deposit_with_permit(market.usdc, USD, *signed, sender=stranger)


def test_deposit_with_permit__signed_by_another_key__reverts(market: Market, stranger: Any, consumer: Any) -> None:
    market.usdc.mint(stranger, USD, sender=stranger)
    signed = permit(market, stranger, USD, key=consumer)
    with ape.reverts("escrow: permit failed and allowance too low"):
        market.escrow.deposit_with_permit(market.usdc, USD, *signed, sender=stranger)


def test_deposit_with_permit__garbage_permit_but_allowance__deposits(market: Market, stranger: Any) -> None:
    market.give(market.usdc, stranger, USD)
    market.escrow.deposit_with_permit(market.usdc, USD, 0, 0, ZERO32, ZERO32, sender=stranger)
    check_account(market, stranger, USD)


def test_deposit_with_permit__token_not_listed__reverts(market: Market, consumer: Any) -> None:
    market.params.list_token(market.usdc, False, sender=market.deployer)
    with ape.reverts("escrow: token not listed"):
        market.escrow.deposit_with_permit(market.usdc, 1, 0, 0, ZERO32, ZERO32, sender=consumer)
