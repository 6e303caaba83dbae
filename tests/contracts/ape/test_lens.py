"""Lens: what it shows is what the contracts say. Its digests are compared in the golden vectors' test."""

from __future__ import annotations

from typing import Any

import ape

from protocol.hashing import keccak
from protocol.ids import lease_id_of
from protocol.merkle import MountainRange
from protocol.typed_data import Voucher, digest
from tests.contracts.ape.market import CLAW, DEPOSIT, USD, ZERO32, Market


def test_leases_of__several__equals_each_lease(market: Market) -> None:
    leases = [market.open(), market.settled_lease(USD)]
    found = market.contracts.lens.leases_of(leases)
    assert [(lease.deposit, lease.settled) for lease in found] == [(DEPOSIT, 0), (DEPOSIT, USD)]
    assert list(found[1]) == list(market.escrow.lease(leases[1]))


def test_leases_of__one_unknown__reverts(market: Market) -> None:
    with ape.reverts("leases: no such lease"):
        market.contracts.lens.leases_of([market.open(), ZERO32])


def test_provider__registered__shows_owner_key_stake_and_anchor(market: Market) -> None:
    market.contracts.usage_anchor.submit([market.anchor(5, keccak(b"root"))], sender=market.stranger)
    found = market.contracts.lens.call_view_method("provider", market.provider)
    assert (found.owner, found.is_registered, found.node_key) == (market.provider_owner, True, market.node.address)
    assert (found.active_stake, found.leases_end) == (10_000 * CLAW, 0)
    assert found.latest_anchor == market.contracts.usage_anchor.latest(market.provider)


def test_account__two_tokens__shows_inside_and_outside(market: Market, stranger: Any) -> None:
    market.give(market.usdc, stranger, 3 * USD)
    market.escrow.deposit(market.usdc, USD, stranger, sender=stranger)
    found = market.contracts.lens.account(stranger, [market.usdc, market.claw])
    assert [(view.token, view.balance, view.wallet) for view in found] == [
        (market.usdc, USD, 2 * USD),
        (market.claw, 0, 0),
    ]


def test_is_anchored__leaf_of_the_latest_root__is_shown_until_the_next(market: Market) -> None:
    leaves = [keccak(b"receipt %d" % number) for number in range(7)]
    ledger = MountainRange()
    for leaf in leaves:
        ledger.append(leaf)
    lens, anchor = market.contracts.lens, market.contracts.usage_anchor
    proofs = [ledger.inclusion_proof(index) for index in range(7)]
    assert not lens.is_anchored(market.provider, 7, ledger.root(), 0, leaves[0], proofs[0])
    anchor.submit([market.anchor(7, ledger.root())], sender=market.stranger)
    for index, leaf in enumerate(leaves):
        assert lens.is_anchored(market.provider, 7, ledger.root(), index, leaf, proofs[index])
    assert not lens.is_anchored(market.provider, 7, ledger.root(), 1, leaves[0], proofs[0])
    anchor.submit([market.anchor(8, keccak(b"other"), (7, ledger.root()))], sender=market.stranger)
    assert not lens.is_anchored(market.provider, 7, ledger.root(), 0, leaves[0], proofs[0])
    assert lens.includes(ledger.root(), 7, 0, leaves[0], proofs[0])


def test_lease_id_and_digests__on_chain__equal_those_of_the_protocol(market: Market) -> None:
    request = market.request()
    lease_id = lease_id_of(market.domain, request)
    lens = market.contracts.lens
    assert bytes(lens.open_lease_digest(request.as_tuple())) == digest(market.domain, request)
    voucher = Voucher(lease_id=lease_id, cumulative=USD, context=b"\x02" * 32)
    assert bytes(lens.voucher_digest(*voucher.as_tuple())) == digest(market.domain, voucher)
    preimage = (request.owner, request.nonce, request.provider, request.offer_id, request.version, request.signer)
    assert bytes(lens.lease_id(*preimage, request.terms_digest)) == lease_id
    assert bytes(market.escrow.domain_separator()) == market.domain.separator
