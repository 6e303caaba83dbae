"""Staking's votes: ERC-5805 and ERC-6372, with self-delegation unless chosen otherwise."""

from __future__ import annotations

from typing import Any

import boa
import pytest
from eth_account import Account

from protocol.signing import CURVE_ORDER, Signer
from tests.contracts.boa.chain import ZERO, account, events, pass_time, stream
from tests.contracts.boa.market import Market, signer


def test_clock__is_the_timestamp(market: Market) -> None:
    assert market.staking.clock() == market.now()
    assert market.staking.CLOCK_MODE() == "mode=timestamp"


def test_get_votes__by_default__are_ones_own(market: Market) -> None:
    alice = account("alice")
    assert market.staking.delegates(alice) == alice
    market.stake(alice, 10)
    assert events(market.staking, "DelegateVotesChanged") == [(alice, 0, 10)]
    assert market.staking.getVotes(alice) == 10


def test_delegate__to_another__moves_the_votes_and_later_stake(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 10)
    market.stake(bob, 3)
    with boa.env.prank(alice):
        market.staking.delegate(bob)
        assert events(market.staking, "DelegateChanged") == [(alice, alice, bob)]
        assert events(market.staking, "DelegateVotesChanged") == [(alice, 10, 0), (bob, 3, 13)]
    market.stake(alice, 5)
    assert (market.staking.getVotes(alice), market.staking.getVotes(bob)) == (0, 18)
    with boa.env.prank(alice):
        market.staking.start_cooldown(15)
    assert market.staking.getVotes(bob) == 3
    assert market.staking.delegates(alice) == bob


def test_delegate__is_not_passed_on(market: Market) -> None:
    alice, bob, carol = account("alice"), account("bob"), account("carol")
    market.stake(alice, 10)
    market.stake(bob, 3)
    with boa.env.prank(alice):
        market.staking.delegate(bob)
    with boa.env.prank(bob):
        market.staking.delegate(carol)
    assert [market.staking.getVotes(who) for who in (alice, bob, carol)] == [0, 10, 3]


def test_delegate__to_nobody__abstains_until_one_chooses_again(market: Market) -> None:
    alice = account("alice")
    market.stake(alice, 10)
    with boa.env.prank(alice):
        market.staking.delegate(ZERO)
        assert market.staking.delegates(alice) == ZERO
        assert market.staking.getVotes(alice) == 0
        assert market.staking.total_active() == 10
    market.stake(alice, 5)
    assert market.staking.getVotes(alice) == market.staking.getVotes(ZERO) == 0
    with boa.env.prank(alice):
        market.staking.delegate(alice)
        assert events(market.staking, "DelegateChanged") == [(alice, ZERO, alice)]
    assert market.staking.getVotes(alice) == 15


@pytest.mark.parametrize("choice", ["self", "same"])
def test_delegate__without_a_change__moves_nothing(market: Market, choice: str) -> None:
    alice, bob = account("alice"), account("bob")
    market.stake(alice, 10)
    target = alice if choice == "self" else bob
    with boa.env.prank(alice):
        market.staking.delegate(target)
        market.staking.delegate(target)
        assert events(market.staking, "DelegateVotesChanged") == []
    assert market.staking.getVotes(target) == 10


def test_delegate__before_staking__applies_to_the_first_stake(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    with boa.env.prank(alice):
        market.staking.delegate(bob)
    market.stake(alice, 10)
    assert (market.staking.getVotes(alice), market.staking.getVotes(bob)) == (0, 10)


def test_get_past_votes__of_every_second__shows_what_was_then(market: Market) -> None:
    alice, bob = account("alice"), account("bob")
    start = market.now()
    expected: dict[int, tuple[int, int, int, int]] = {start - 1: (0, 0, 0, 0)}
    stakes = 0
    for step in range(20):
        market.stake(alice, step + 1)
        stakes += step + 1
        if step == 10:
            with boa.env.prank(alice):
                market.staking.delegate(bob)
        held = (0, stakes) if step >= 10 else (stakes, 0)
        expected[market.now()] = (*held, stakes, stakes)
        pass_time(1 + step % 3)
        expected[market.now() - 1] = (*held, stakes, stakes)
    for timepoint, votes in expected.items():
        assert votes == (
            market.staking.getPastVotes(alice, timepoint),
            market.staking.getPastVotes(bob, timepoint),
            market.staking.getPastStake(alice, timepoint),
            market.staking.getPastTotalSupply(timepoint),
        )


@pytest.mark.parametrize("ahead", [0, 1, 2**200])
def test_past_lookups__of_present_or_future__revert(market: Market, ahead: int) -> None:
    alice, timepoint = account("alice"), market.now() + ahead
    for call in (market.staking.getPastVotes, market.staking.getPastStake):
        with boa.reverts("checkpoints: future lookup"):
            call(alice, timepoint)
    with boa.reverts("checkpoints: future lookup"):
        market.staking.getPastTotalSupply(timepoint)


def test_flash_stake__within_one_block__leaves_no_past_votes_and_no_rewards(market: Market) -> None:
    whale, honest = account("whale"), account("honest")
    market.stake(honest, 10)
    stream(market, market.usdc, 7 * 86_400)
    pass_time(100)
    market.stake(whale, 10**24)
    with boa.env.prank(whale):
        market.staking.start_cooldown(10**24)
    at = market.now()
    pass_time(100)
    assert market.staking.getPastVotes(whale, at) == market.staking.getPastStake(whale, at) == 0
    assert market.staking.getPastTotalSupply(at) == 10
    assert market.staking.earned(whale, market.usdc.address) == 0
    assert market.staking.earned(honest, market.usdc.address) == 200


def test_delegate_by_sig__signed__delegates_once(market: Market) -> None:
    alice, bob = signer("alice key"), account("bob")
    market.stake(alice.address, 10)
    args = _delegation(market, alice, bob)
    market.staking.delegateBySig(*args)
    assert market.staking.delegates(alice.address) == bob
    assert market.staking.getVotes(bob) == 10
    assert market.staking.nonces(alice.address) == 1
    with boa.reverts("votes: bad nonce"):
        market.staking.delegateBySig(*args)


def test_delegate_by_sig__at_and_after_its_expiry(market: Market) -> None:
    alice, bob = signer("alice key"), account("bob")
    market.staking.delegateBySig(*_delegation(market, alice, bob, expiry=market.now()))
    with boa.reverts("votes: signature expired"):
        market.staking.delegateBySig(*_delegation(market, alice, bob, nonce=1, expiry=market.now() - 1))


def test_delegate_by_sig__ahead_of_its_nonce__reverts(market: Market) -> None:
    with boa.reverts("votes: bad nonce"):
        market.staking.delegateBySig(*_delegation(market, signer("alice key"), account("bob"), nonce=1))


@pytest.mark.parametrize("change", ["chain", "contract", "name", "delegatee"])
def test_delegate_by_sig__signed_for_something_else__delegates_nothing(market: Market, change: str) -> None:
    alice, bob = signer("alice key"), account("bob")
    market.stake(alice.address, 10)
    domain: dict[str, Any] = {
        "chain": {"chainId": boa.env.evm.patch.chain_id + 1},
        "contract": {"verifyingContract": str(market.escrow.address)},
        "name": {"name": "OpenClaw Compute Market"},
        "delegatee": {},
    }[change]
    args = _delegation(market, alice, bob, domain=domain)
    if change == "delegatee":
        args = (account("thief"), *args[1:])
    market.staking.delegateBySig(*args)
    assert market.staking.delegates(alice.address) == alice.address
    assert market.staking.getVotes(alice.address) == 10


@pytest.mark.parametrize("flaw", ["high s", "zero", "v"])
def test_delegate_by_sig__malformed__reverts(market: Market, flaw: str) -> None:
    delegatee, nonce, expiry, v, r, s = _delegation(market, signer("alice key"), account("bob"))
    if flaw == "high s":
        v, s = 55 - v, (CURVE_ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
        with boa.reverts("ecdsa: invalid signature `s` value"):
            market.staking.delegateBySig(delegatee, nonce, expiry, v, r, s)
        return
    if flaw == "zero":
        r = s = bytes(32)
    else:
        v = 29
    with boa.reverts("ecdsa: invalid signature"):
        market.staking.delegateBySig(delegatee, nonce, expiry, v, r, s)


def test_eip712_domain__is_stakings_own(market: Market) -> None:
    fields, name, version, chain_id, contract, *_ = market.staking.eip712Domain()
    assert (fields, name, version) == (b"\x0f", "OpenClaw Staking", "1")
    assert (chain_id, contract) == (boa.env.evm.patch.chain_id, market.staking.address)


def _delegation(
    market: Market,
    who: Signer,
    delegatee: str,
    *,
    nonce: int = 0,
    expiry: int | None = None,
    domain: dict[str, Any] | None = None,
) -> tuple[Any, ...]:
    expiry = market.now() + 600 if expiry is None else expiry
    own = {
        "name": "OpenClaw Staking",
        "version": "1",
        "chainId": boa.env.evm.patch.chain_id,
        "verifyingContract": str(market.staking.address),
    }
    fields = {"delegatee": "address", "nonce": "uint256", "expiry": "uint256"}
    types = {"Delegation": [{"name": name, "type": kind} for name, kind in fields.items()]}
    message = {"delegatee": delegatee, "nonce": nonce, "expiry": expiry}
    signed = Account.sign_typed_data(who.private_key, own | (domain or {}), types, message)
    return (delegatee, nonce, expiry, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big"))
