"""Votes of Staking (ERC-5805): delegation, abstention, signatures and the past."""

from __future__ import annotations

from typing import Any

import ape
from eth_account import Account

from tests.contracts.ape.market import CLAW, ZERO32, ZERO_ADDRESS, Market

STAKE = 10_000 * CLAW


def sign_delegation(market: Market, account: Any, delegatee: Any, nonce: int, expiry: int) -> tuple[Any, ...]:
    """The arguments of delegateBySig."""
    members = [("delegatee", "address"), ("nonce", "uint256"), ("expiry", "uint256")]
    signed = Account.sign_typed_data(
        account.private_key,
        {
            "name": "OpenClaw Staking",
            "version": "1",
            "chainId": market.domain.chain_id,
            "verifyingContract": market.staking.address,
        },
        {"Delegation": [{"name": name, "type": kind} for name, kind in members]},
        {"delegatee": delegatee.address, "nonce": nonce, "expiry": expiry},
    )
    return delegatee, nonce, expiry, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")


def call(market: Market, name: str, *arguments: Any, sender: Any) -> Any:
    """Not getattr: Ape's own attributes hide `delegate`."""
    return market.staking.invoke_transaction(name, *arguments, sender=sender)


def test_delegate__to_another_abstain_and_back__moves_the_votes(
    market: Market, provider_owner: Any, stranger: Any
) -> None:
    votes = market.staking.getVotes
    assert (votes(provider_owner), market.staking.delegates(provider_owner)) == (STAKE, provider_owner)
    call(market, "delegate", stranger, sender=provider_owner)
    assert (votes(provider_owner), votes(stranger)) == (0, STAKE)
    call(market, "delegate", stranger, sender=provider_owner)
    assert votes(stranger) == STAKE
    call(market, "delegate", ZERO_ADDRESS, sender=provider_owner)
    assert (votes(stranger), market.staking.delegates(provider_owner)) == (0, ZERO_ADDRESS)
    call(market, "delegate", provider_owner, sender=provider_owner)
    assert votes(provider_owner) == STAKE


def test_delegate__without_stake__moves_nothing(market: Market, consumer: Any, stranger: Any) -> None:
    call(market, "delegate", stranger, sender=consumer)
    assert market.staking.getVotes(stranger) == 0


def test_delegate_by_sig__once__counts_once(market: Market, provider_owner: Any, stranger: Any, consumer: Any) -> None:
    signed = sign_delegation(market, provider_owner, stranger, 0, market.now() + 600)
    market.staking.delegateBySig(*signed, sender=consumer)
    assert market.staking.getVotes(stranger) == STAKE
    with ape.reverts("votes: bad nonce"):
        market.staking.delegateBySig(*signed, sender=consumer)


def test_delegate_by_sig__expired_or_forged__reverts(market: Market, provider_owner: Any, stranger: Any) -> None:
    with ape.reverts("votes: signature expired"):
        market.staking.delegateBySig(
            *sign_delegation(market, provider_owner, stranger, 0, market.now() - 10), sender=stranger
        )
    expiry = market.now() + 600
    with ape.reverts("ecdsa: invalid signature"):
        market.staking.delegateBySig(stranger, 0, expiry, 27, ZERO32, ZERO32, sender=stranger)


def test_past__votes_stake_and_total__never_change(market: Market, provider_owner: Any, stranger: Any) -> None:
    market.travel(100)
    then = market.chain.blocks.head.timestamp
    market.travel(100)
    call(market, "delegate", stranger, sender=provider_owner)
    market.staking.start_cooldown(STAKE, sender=provider_owner)
    market.travel(100)
    staking = market.staking
    assert staking.getPastVotes(provider_owner, then) == STAKE
    assert staking.getPastStake(provider_owner, then) == STAKE
    assert staking.getPastTotalSupply(then) == STAKE
    now = market.chain.blocks.head.timestamp - 1
    assert (staking.getPastVotes(stranger, now), staking.getPastTotalSupply(now)) == (0, 0)
    assert staking.CLOCK_MODE() == "mode=timestamp"
    with ape.reverts():
        staking.getPastVotes(stranger, staking.clock() + 1)
