"""Re-entrancy on every outward call: transferFrom, transfer, permit and the ERC-1271 check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import check_account
from tests.contracts.ape.market import UNLIMITED, USD, ZERO32, Market
from tests.contracts.ape.weakened import DEBIT_AFTER_PAYING, UNGUARDED, Replacement, weakened_escrow

AMOUNT = 100 * USD


@pytest.fixture
def token(market: Market, project: Any) -> Any:
    """A listed re-entrant token; the consumer has some of it in its account, and in its wallet with an allowance."""
    token = market.deployer.deploy(project.ReentrantToken)
    market.params.list_token(token, True, sender=market.deployer)
    market.deposit(market.consumer, AMOUNT, token)
    market.give(token, market.consumer, AMOUNT)
    return token


def re_entries(market: Market, token: Any) -> dict[str, bytes]:
    """A well-formed call of every function of the escrow that changes state and that anyone may call."""
    escrow, me = market.escrow, token.address
    lease_id = market.open()
    calls = {
        "deposit": escrow.deposit.encode_input(token, 0, me),
        "deposit_with_permit": escrow.deposit_with_permit.encode_input(token, 0, 0, 0, ZERO32, ZERO32),
        "withdraw": escrow.withdraw.encode_input(token, 0, market.stranger),
        "open_lease": escrow.open_lease.encode_input(market.request().as_tuple(), b""),
        "bump_nonce": escrow.bump_nonce.encode_input(),
        "top_up": escrow.top_up.encode_input(lease_id, 1),
        "close": escrow.close.encode_input(lease_id),
        "revoke": escrow.revoke.encode_input(lease_id),
        "release": escrow.release.encode_input(lease_id),
        "settle": escrow.settle.encode_input(market.provider, market.usdc, []),
        "collect": escrow.collect.encode_input(market.provider, market.usdc),
        "collect_fees": escrow.collect_fees.encode_input(market.usdc),
        "accounts": escrow.accounts.encode_input(market.consumer, token),
    }
    return {name: bytes(data) for name, data in calls.items()}


OUTWARD = ("transferFrom", "permit", "transfer")
INWARD = (
    "deposit",
    "deposit_with_permit",
    "withdraw",
    "open_lease",
    "bump_nonce",
    "top_up",
    "close",
    "revoke",
    "release",
    "settle",
    "collect",
    "collect_fees",
    "accounts",
)


def call_out(market: Market, token: Any, outward: str) -> None:
    """A transaction of the consumer in which the escrow calls the token."""
    if outward == "transferFrom":
        market.escrow.deposit(token, USD, market.consumer, sender=market.consumer)
    elif outward == "permit":
        market.escrow.deposit_with_permit(token, USD, 0, 0, ZERO32, ZERO32, sender=market.consumer)
    else:
        market.escrow.withdraw(token, USD, market.consumer, sender=market.consumer)


@pytest.mark.parametrize("outward", OUTWARD)
def test_re_entry__into_any_function__is_refused(market: Market, token: Any, outward: str) -> None:
    calls = re_entries(market, token)
    assert set(calls) == set(INWARD)
    for name, payload in calls.items():
        tried = token.failures()
        token.set_callback(market.escrow, payload, False, sender=market.stranger)
        call_out(market, token, outward)
        assert token.failures() > tried, name
        assert token.last_response() == b"", f"{name} was refused for another reason than the lock"
    assert token.successes() == 0


@pytest.mark.parametrize("outward", OUTWARD)
def test_re_entry__call_elsewhere__goes_through(market: Market, token: Any, outward: str) -> None:
    """The positive control: the token does call while it is called."""
    payload = bytes(market.usdc.mint.encode_input(market.stranger, 1))
    token.set_callback(market.usdc, payload, True, sender=market.stranger)
    call_out(market, token, outward)
    assert token.successes() > 0
    assert market.usdc.balanceOf(market.stranger) == token.successes()


def test_re_entry__that_must_succeed__fails_the_outer_call_alone(market: Market, token: Any) -> None:
    payload = bytes(market.escrow.bump_nonce.encode_input())
    token.set_callback(market.escrow, payload, True, sender=market.stranger)
    before = market.escrow.accounts(market.consumer, token)
    with ape.reverts("mock: callback failed"):
        call_out(market, token, "transfer")
    check_account(market, market.consumer, before, token)
    market.escrow.withdraw(market.usdc, USD, market.consumer, sender=market.consumer)


def test_open_lease__wallet_that_re_enters_while_checked__is_refused(market: Market, project: Any) -> None:
    wallet = market.deployer.deploy(project.ReentrantWallet)
    market.give(market.usdc, market.stranger, AMOUNT)
    market.escrow.deposit(market.usdc, AMOUNT, wallet, sender=market.stranger)
    request = market.request(owner=wallet.address, amount=AMOUNT)
    for target, call in (
        (market.escrow, market.escrow.withdraw.encode_input(market.usdc, AMOUNT, market.stranger)),
        (market.escrow, market.escrow.bump_nonce.encode_input()),
        (market.usdc, market.usdc.mint.encode_input(market.stranger, 1)),
    ):
        wallet.set_callback(target, bytes(call), sender=market.stranger)
        with ape.reverts("leases: bad signature"):
            market.escrow.open_lease(request.as_tuple(), b"any", sender=market.stranger)
    check_account(market, wallet, AMOUNT)
    wallet.set_callback(market.usdc, bytes(market.usdc.totalSupply.encode_input()), sender=market.stranger)
    market.escrow.open_lease(request.as_tuple(), b"any", sender=market.stranger)
    check_account(market, wallet, 0)


def test_staking__token_that_re_enters__is_refused(market: Market, token: Any) -> None:
    offer = replace(market.offer, token=token.address)
    market.registry.create_offer(market.provider, offer.as_tuple(), sender=market.provider_owner)
    lease_id = market.open(offer_id=2, token=token.address, amount=AMOUNT)
    market.settle(market.voucher(lease_id, AMOUNT), token=token)
    staking = market.staking
    token.set_callback(staking, bytes(staking.pull_fees.encode_input(token)), False, sender=market.stranger)
    staking.pull_fees(token, sender=market.stranger)
    market.travel(86_400)
    assert (token.successes(), token.failures()) == (0, 1)
    for call in (staking.claim.encode_input(token, token), staking.stake.encode_input(1)):
        token.set_callback(staking, bytes(call), False, sender=market.stranger)
        market.travel(3_600)
        staking.claim(token, market.provider_owner, sender=market.provider_owner)
    assert (token.successes(), token.failures()) == (0, 3)


def drain(market: Market, project: Any, replacements: tuple[Replacement, ...], folder: Path) -> int:
    """What an attacker with AMOUNT in a weakened escrow takes out of it, beside a victim with as much."""
    arguments = [market.params, market.registry, market.staking, market.arbitration]
    escrow = market.deployer.deploy(weakened_escrow(replacements, folder), *arguments)
    token = market.deployer.deploy(project.ReentrantToken)
    attacker = market.deployer.deploy(project.RevertingWallet)
    market.params.list_token(token, True, sender=market.deployer)
    token.mint(market.consumer, 2 * AMOUNT, sender=market.consumer)
    token.approve(escrow, UNLIMITED, sender=market.consumer)
    escrow.deposit(token, AMOUNT, market.consumer, sender=market.consumer)
    escrow.deposit(token, AMOUNT, attacker, sender=market.consumer)
    withdrawal = bytes(escrow.withdraw.encode_input(token, AMOUNT, attacker))
    again = bytes(attacker.execute.encode_input(escrow, withdrawal))
    token.set_callback(attacker, again, False, sender=market.stranger)
    attacker.execute(escrow, withdrawal, sender=market.stranger)
    return int(token.balanceOf(attacker))


def test_withdraw__that_books_late__is_saved_by_the_guard(market: Market, project: Any, tmp_path: Path) -> None:
    assert drain(market, project, DEBIT_AFTER_PAYING, tmp_path) == AMOUNT


def test_withdraw__that_books_late_without_the_guard__is_drained(market: Market, project: Any, tmp_path: Path) -> None:
    assert drain(market, project, (*DEBIT_AFTER_PAYING, *UNGUARDED), tmp_path) == 2 * AMOUNT
