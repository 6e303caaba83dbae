"""Attacks by the parties of a lease and by those who watch the pending transactions.

Signatures, wallets and re-entrancy have files of their own: test_attacks_*.py.
"""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import check_account, check_books, check_earnings, check_lease, check_skipped, fee_of
from tests.contracts.ape.market import (
    CLAW,
    DAY,
    DEPOSIT,
    HOUR,
    SKIPPED_CLOSED,
    SKIPPED_FOREIGN,
    SKIPPED_SETTLED,
    SKIPPED_SIGNATURE,
    USD,
    ZERO32,
    Market,
    signer_named,
    signer_of,
)
from tests.contracts.ape.test_deposit import permit


@pytest.mark.parametrize("exit_call", ["close", "revoke"])
def test_revoke_and_run__vouchers_signed_before__are_still_payable(
    market: Market, consumer: Any, exit_call: str
) -> None:
    lease_id = market.open()
    voucher = market.voucher(lease_id, 30 * USD)
    getattr(market.escrow, exit_call)(lease_id, sender=consumer)
    with ape.reverts("leases: not closed"):
        market.escrow.release(lease_id, sender=consumer)
    market.travel_to(market.escrow.lease(lease_id).closes_at - 10)
    market.settle(voucher)
    check_lease(market, lease_id, settled=30 * USD)
    check_earnings(market, held=30 * USD - fee_of(30 * USD))


def test_revoke_and_run__provider_sleeps_past_closes_at__loses_the_voucher(market: Market, consumer: Any) -> None:
    lease_id = market.open()
    market.escrow.revoke(lease_id, sender=consumer)
    market.travel_to(market.escrow.lease(lease_id).closes_at)
    check_skipped(market.settle(market.voucher(lease_id, 30 * USD)), market.escrow, SKIPPED_CLOSED)
    before = market.escrow.accounts(consumer, market.usdc)
    market.escrow.release(lease_id, sender=consumer)
    check_account(market, consumer, before + DEPOSIT)


def test_copied_permit__submitted_first_by_another__does_not_stop_the_deposit(
    market: Market, stranger: Any, consumer: Any
) -> None:
    market.usdc.mint(stranger, USD, sender=stranger)
    deadline, v, r, s = permit(market, stranger, USD)
    market.usdc.permit(stranger, market.escrow, USD, deadline, v, r, s, sender=consumer)
    market.escrow.deposit_with_permit(market.usdc, USD, deadline, v, r, s, sender=stranger)
    check_account(market, stranger, USD)


def test_copied_permit__allowance_of_the_victim__cannot_be_deposited_by_another(
    market: Market, stranger: Any, consumer: Any
) -> None:
    market.give(market.usdc, stranger, USD)
    market.usdc.approve(market.escrow, 0, sender=consumer)
    before = market.escrow.accounts(consumer, market.usdc)
    with ape.reverts():
        market.escrow.deposit(market.usdc, USD, consumer, sender=consumer)
    check_account(market, consumer, before)
    assert market.usdc.balanceOf(stranger) == USD


def test_price_raised_before_an_open__signed_request__is_refused(market: Market, consumer: Any, stranger: Any) -> None:
    request = market.request()
    signature = signer_of(consumer).sign(market.domain, request).to_bytes()
    market.update_offer(terms_digest=b"\x01" * 32)
    with ape.reverts("leases: offer changed"):
        market.escrow.open_lease(request.as_tuple(), signature, sender=stranger)


def test_price_raised_before_an_open__owners_own_call__is_refused(market: Market, consumer: Any) -> None:
    request = market.request(terms_digest=b"\x01" * 32)
    with ape.reverts("leases: terms differ"):
        market.escrow.open_lease(request.as_tuple(), b"", sender=consumer)


def test_lease_id_replay__same_request_twice__is_refused(market: Market, consumer: Any, stranger: Any) -> None:
    request = market.request()
    signature = signer_of(consumer).sign(market.domain, request).to_bytes()
    market.escrow.open_lease(request.as_tuple(), signature, sender=stranger)
    with ape.reverts("leases: wrong nonce"):
        market.escrow.open_lease(request.as_tuple(), signature, sender=stranger)
    with ape.reverts("leases: wrong nonce"):
        market.escrow.open_lease(request.as_tuple(), b"", sender=consumer)


def test_lease_id_replay__all_else_equal__gets_another_id_and_no_old_voucher(market: Market) -> None:
    first = market.open()
    voucher = market.voucher(first, 10 * USD)
    second = market.open()
    assert first != second
    check_skipped(market.settle((second, *voucher[1:])), market.escrow, SKIPPED_SIGNATURE)
    check_lease(market, second, settled=0)


def test_nonce_bump__signed_request__is_cancelled(market: Market, consumer: Any, stranger: Any) -> None:
    request = market.request()
    signature = signer_of(consumer).sign(market.domain, request).to_bytes()
    market.escrow.bump_nonce(sender=consumer)
    with ape.reverts("leases: wrong nonce"):
        market.escrow.open_lease(request.as_tuple(), signature, sender=stranger)


def test_nonce__signed_for_the_future__waits_for_its_turn(market: Market, consumer: Any, stranger: Any) -> None:
    later = market.request(nonce=market.escrow.nonces(consumer) + 1)
    signature = signer_of(consumer).sign(market.domain, later).to_bytes()
    with ape.reverts("leases: wrong nonce"):
        market.escrow.open_lease(later.as_tuple(), signature, sender=stranger)
    market.open()
    market.escrow.open_lease(later.as_tuple(), signature, sender=stranger)


def test_batch__50_bad_vouchers_between_good_ones__pays_the_good_ones_in_full(
    market: Market, accounts: Any, stranger: Any
) -> None:
    first, last, closed = market.open(), market.open(), market.open()
    foreign_provider = market.second_provider(accounts[4])
    foreign = market.open(provider=foreign_provider)
    market.escrow.close(closed, sender=market.provider_owner)
    thief = signer_named("thief")
    r, vs = market.voucher(first, 1)[3:]
    bad = [
        market.voucher(first, 50 * USD, session=thief),
        market.voucher(b"\x07" * 32, 50 * USD),
        market.voucher(foreign, 50 * USD),
        market.voucher(closed, 50 * USD),
        market.voucher(first, 0),
        (first, 50 * USD, ZERO32, ZERO32, ZERO32),
        (first, 50 * USD, ZERO32, r, vs),
        (first, 2**256 - 1, b"\xff" * 32, b"\xff" * 32, b"\xff" * 32),
        (b"\x00" * 32, 50 * USD, ZERO32, r, vs),
        (last, 0, ZERO32, r, vs),
    ]
    reasons = [SKIPPED_SIGNATURE, SKIPPED_FOREIGN, SKIPPED_FOREIGN, SKIPPED_CLOSED, SKIPPED_SETTLED]
    reasons += [SKIPPED_SIGNATURE, SKIPPED_SIGNATURE, SKIPPED_SIGNATURE, SKIPPED_FOREIGN, SKIPPED_SETTLED]
    batch = [*bad * 2, market.voucher(first, 20 * USD), *bad[2:5] * 10, market.voucher(last, 30 * USD)]
    receipt = market.settle(*batch)
    check_skipped(receipt, market.escrow, *reasons * 2, *reasons[2:5] * 10)
    assert len(batch) == 52
    check_lease(market, first, settled=20 * USD)
    check_lease(market, last, settled=30 * USD)
    check_lease(market, foreign, settled=0)
    check_earnings(market, held=50 * USD - fee_of(20 * USD) - fee_of(30 * USD))
    check_books(market, [market.consumer, stranger], [first, last, closed, foreign])


def test_provider_id__beyond_32_bits__is_refused_by_the_abi(market: Market, stranger: Any) -> None:
    lease_id = market.open()
    voucher = market.voucher(lease_id, USD)
    data = bytearray(market.escrow.settle.encode_input(market.provider, market.usdc, [voucher]))
    data[4 + 27] = 1
    receipt = stranger.transfer(market.escrow, value=0, data=bytes(data), raise_on_revert=False, gas=1_000_000)
    assert receipt.failed
    check_lease(market, lease_id, settled=0)


def test_settle__token_the_lease_is_not_in__credits_nothing(market: Market, consumer: Any) -> None:
    market.deposit(consumer, CLAW, market.claw)
    lease_id = market.open()
    receipt = market.settle(market.voucher(lease_id, 10 * USD), token=market.claw)
    check_skipped(receipt, market.escrow, SKIPPED_FOREIGN)
    check_earnings(market, held=0, token=market.claw)


def test_settle__token_never_deposited__matches_no_lease(market: Market, stranger: Any) -> None:
    lease_id = market.open()
    check_skipped(market.settle(market.voucher(lease_id, 10 * USD), token=stranger), market.escrow, SKIPPED_FOREIGN)


def test_dust_leases__filling_an_offer__cost_the_minimum_deposit_each(market: Market, consumer: Any) -> None:
    market.update_offer(min_deposit=50 * USD, max_active=2)
    with ape.reverts("leases: deposit too small"):
        market.open(version=2, amount=50 * USD - 1)
    market.open(version=2, amount=50 * USD)
    lease_id = market.open(version=2, amount=50 * USD)
    with ape.reverts("leases: offer full"):
        market.open(version=2, amount=50 * USD)
    market.escrow.close(lease_id, sender=market.provider_owner)
    market.escrow.release(lease_id, sender=market.stranger)
    market.open(version=2, amount=50 * USD)


def test_dust_vouchers__one_unit_at_a_time__end_in_the_same_fee(market: Market) -> None:
    split, whole = market.open(), market.open()
    for cumulative in (1, 19, 20, 39, 57, 101):
        market.settle(market.voucher(split, cumulative))
    assert market.escrow.fees(market.usdc) == fee_of(101)
    market.settle(market.voucher(whole, 101))
    assert market.escrow.fees(market.usdc) == 2 * fee_of(101)
    check_earnings(market, held=2 * (101 - fee_of(101)))


def test_deregistration__leases_of_the_provider__end_within_six_days(
    market: Market, provider_owner: Any, consumer: Any
) -> None:
    lease_id = market.open(expiry=market.now() + 20 * DAY, close_delay=6 * DAY)
    voucher = market.voucher(lease_id, 10 * USD)
    receipt = market.staking.start_cooldown(1, sender=provider_owner)
    end = receipt.timestamp + 6 * DAY
    check_lease(market, lease_id, closes_at=end)
    with ape.reverts("leases: provider not registered"):
        market.open()
    market.travel_to(end - 10)
    market.settle(voucher)
    check_lease(market, lease_id, settled=10 * USD)
    market.travel_to(end)
    check_skipped(market.settle(market.voucher(lease_id, 20 * USD)), market.escrow, SKIPPED_CLOSED)
    market.escrow.release(lease_id, sender=market.stranger)
    check_lease(market, lease_id, is_released=True, deposit=10 * USD)


def test_deregistration__and_registration_anew__waits_for_the_old_leases(market: Market, provider_owner: Any) -> None:
    lease_id = market.open(expiry=market.now() + 20 * DAY)
    market.staking.start_cooldown(1, sender=provider_owner)
    end = market.escrow.lease(lease_id).closes_at
    market.stake(provider_owner, CLAW)
    key = signer_named("node again")
    proof = market.sign_node_key(provider_owner, key)
    market.travel_to(end - 10)
    with ape.reverts("registry: leases of the former id still run"):
        market.registry.register(key.address, *proof, ZERO32, sender=provider_owner)
    market.travel_to(end)
    assert market.register(provider_owner, key, stake=0) != market.provider
    check_lease(market, lease_id, closes_at=end)


def test_front_run__consumer_releases_as_soon_as_it_may__never_before_the_provider_could_settle(
    market: Market, consumer: Any
) -> None:
    lease_id = market.open()
    closes_at = market.escrow.close(lease_id, sender=consumer).timestamp + HOUR
    check_lease(market, lease_id, closes_at=closes_at)
    market.chain.pending_timestamp = closes_at - 1
    market.settle(market.voucher(lease_id, 5 * USD))
    check_lease(market, lease_id, settled=5 * USD)


def test_front_run__second_close__cannot_move_closes_at_up_or_reset_it(market: Market, consumer: Any) -> None:
    lease_id = market.open(close_delay=2 * HOUR)
    market.escrow.close(lease_id, sender=consumer)
    closes_at = market.escrow.lease(lease_id).closes_at
    market.travel(HOUR)
    market.escrow.revoke(lease_id, sender=consumer)
    check_lease(market, lease_id, closes_at=closes_at, is_revoked=True)


def test_front_run__top_up_after_close__is_refused(market: Market, consumer: Any) -> None:
    lease_id = market.open()
    market.escrow.close(lease_id, sender=consumer)
    with ape.reverts("leases: closing"):
        market.escrow.top_up(lease_id, USD, sender=consumer)


def test_front_run__provider_closes_before_settling__hurts_itself_alone(market: Market, provider_owner: Any) -> None:
    lease_id = market.open()
    market.escrow.close(lease_id, sender=provider_owner)
    check_skipped(market.settle(market.voucher(lease_id, 5 * USD)), market.escrow, SKIPPED_CLOSED)


def test_parameters_and_listing__changed_meanwhile__do_not_touch_running_leases(market: Market) -> None:
    lease_id = market.open()
    market.params.set(0, 600, sender=market.deployer)
    market.params.list_token(market.usdc, False, sender=market.deployer)
    market.settle(market.voucher(lease_id, 40 * USD))
    assert market.escrow.fees(market.usdc) == fee_of(40 * USD)
    market.escrow.close(lease_id, sender=market.provider_owner)
    market.escrow.release(lease_id, sender=market.stranger)
    market.escrow.withdraw(market.usdc, USD, market.consumer, sender=market.consumer)
    with ape.reverts("leases: token not listed"):
        market.open()
