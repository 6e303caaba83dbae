"""LeaseEscrow.open_lease and bump_nonce. Forged signatures are in test_attacks_signatures.py."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from protocol.ids import lease_id_of
from tests.contracts.ape.checks import check_account, check_books, check_lease, only_event
from tests.contracts.ape.market import CLAW, DAY, DEPOSIT, FEE_BPS, HOUR, TERMS_DIGEST, USD, Market, signer_of


def check_just_opened(market: Market, lease_id: bytes, request: Any) -> None:
    check_lease(
        market,
        lease_id,
        owner=request.owner,
        provider=request.provider,
        offer_id=request.offer_id,
        version=request.version,
        token=request.token,
        signer=request.signer,
        deposit=request.amount,
        settled=0,
        expiry=request.expiry,
        close_delay=request.close_delay,
        closes_at=request.expiry + request.close_delay,
        fee_bps=FEE_BPS,
        is_closing=False,
        is_revoked=False,
        is_released=False,
    )


@pytest.mark.state_row("L1")
def test_open_lease__by_its_owner__reserves_the_amount(market: Market, consumer: Any) -> None:
    before = market.escrow.accounts(consumer, market.usdc)
    request = market.request()
    receipt = market.escrow.open_lease(request.as_tuple(), b"", sender=consumer)
    lease_id = lease_id_of(market.domain, request)
    check_just_opened(market, lease_id, request)
    check_account(market, consumer, before - DEPOSIT)
    assert market.escrow.nonces(consumer) == request.nonce + 1
    assert market.escrow.active_leases(market.provider, 1) == 1
    event = only_event(receipt, market.escrow.LeaseOpened)
    assert bytes(event.lease_id) == lease_id
    assert event.event_arguments["provider"] == market.provider
    assert (event.owner, event.offer_id, event.version) == (consumer, 1, 1)
    assert (event.token, event.amount, event.signer) == (market.usdc, DEPOSIT, market.session.address)
    assert (event.expiry, event.close_delay, event.fee_bps) == (request.expiry, HOUR, FEE_BPS)
    assert (bytes(event.terms_digest), event.nonce) == (TERMS_DIGEST, request.nonce)
    check_books(market, [consumer], [lease_id])


@pytest.mark.state_row("L2")
def test_open_lease__by_anyone_with_the_owners_signature__reserves_the_amount(market: Market, consumer: Any) -> None:
    request = market.request()
    signature = signer_of(consumer).sign(market.domain, request).to_bytes()
    market.escrow.open_lease(request.as_tuple(), signature, sender=market.stranger)
    check_just_opened(market, lease_id_of(market.domain, request), request)


def test_open_lease__two_in_one_sequence__use_one_nonce_each(market: Market, consumer: Any) -> None:
    nonce = market.escrow.nonces(consumer)
    request = market.request()
    signature = signer_of(consumer).sign(market.domain, request).to_bytes()
    market.escrow.open_lease(request.as_tuple(), signature, sender=market.stranger)
    market.open()
    assert market.escrow.nonces(consumer) == nonce + 2


def test_open_lease__more_than_the_account__reverts(market: Market, consumer: Any) -> None:
    balance = market.escrow.accounts(consumer, market.usdc)
    with ape.reverts("escrow: account too low"):
        market.open(amount=balance + 1)


def test_open_lease__deadline_passed__reverts(market: Market) -> None:
    with ape.reverts("leases: deadline passed"):
        market.open(deadline=market.now() - 1)


def test_open_lease__expired__reverts(market: Market) -> None:
    with ape.reverts("leases: expired"):
        market.open(expiry=market.now() - 1)


def test_open_lease__longer_than_the_offer_allows__reverts(market: Market) -> None:
    with ape.reverts("leases: too long"):
        market.open(expiry=market.now() + 31 * DAY)


@pytest.mark.parametrize("close_delay", [0, HOUR - 1, 6 * DAY + 1])
def test_open_lease__close_delay_out_of_range__reverts(market: Market, close_delay: int) -> None:
    with ape.reverts("leases: close delay out of range"):
        market.open(close_delay=close_delay)


def test_open_lease__offer_paused__reverts_until_it_opens(market: Market, provider_owner: Any) -> None:
    market.registry.set_offer_open(market.provider, 1, False, sender=provider_owner)
    with ape.reverts("leases: offer not open"):
        market.open()
    market.registry.set_offer_open(market.provider, 1, True, sender=provider_owner)
    market.open()


def test_open_lease__no_such_offer__reverts(market: Market) -> None:
    with ape.reverts("leases: offer not open"):
        market.open(offer_id=2)


def test_open_lease__no_such_provider__reverts(market: Market) -> None:
    with ape.reverts("leases: provider not registered"):
        market.open(provider=77)


def test_open_lease__token_of_another_offer__reverts(market: Market, consumer: Any) -> None:
    market.deposit(consumer, CLAW, market.claw)
    with ape.reverts("leases: wrong token"):
        market.open(token=market.claw.address)


def test_open_lease__token_not_listed__reverts(market: Market) -> None:
    market.params.list_token(market.usdc, False, sender=market.deployer)
    with ape.reverts("leases: token not listed"):
        market.open()


def test_open_lease__provider_below_a_raised_minimum__reverts(market: Market) -> None:
    market.params.set(3, 20_000 * CLAW, sender=market.deployer)
    with ape.reverts("leases: provider stake too low"):
        market.open()


def test_open_lease__below_the_minimum_deposit__reverts(market: Market) -> None:
    with ape.reverts("leases: deposit too small"):
        market.open(amount=USD - 1)


def test_open_lease__nothing_in_an_offer_without_minimum__reverts(market: Market) -> None:
    market.update_offer(min_deposit=0)
    with ape.reverts("leases: deposit too small"):
        market.open(amount=0, version=2)


def test_open_lease__fee_changed_before__is_frozen_into_the_lease(market: Market) -> None:
    market.params.set(0, 600, sender=market.deployer)
    lease_id = market.open()
    market.travel(7 * DAY)
    market.params.set(0, 700, sender=market.deployer)
    check_lease(market, lease_id, fee_bps=600)


def test_bump_nonce__by_anyone__moves_its_own_alone(market: Market, consumer: Any, stranger: Any) -> None:
    before = market.escrow.nonces(consumer)
    receipt = market.escrow.bump_nonce(sender=stranger)
    event = only_event(receipt, market.escrow.NonceBumped)
    assert (event.owner, event.nonce) == (stranger, 1)
    assert market.escrow.nonces(stranger) == 1
    assert market.escrow.nonces(consumer) == before
