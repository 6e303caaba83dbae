"""Forged, malleable and foreign signatures: vouchers, lease requests, anchors and node keys.

Every test of a refusal also shows that the honest twin of the same data is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ape
import pytest

from protocol.signing import HALF_ORDER, Signer
from protocol.typed_data import Anchor, Domain, NodeKey, Voucher
from tests.contracts.ape.checks import check_lease, check_skipped, only_event
from tests.contracts.ape.market import (
    SKIPPED_SIGNATURE,
    USD,
    ZERO32,
    ZERO_ADDRESS,
    Market,
    low_s_twin,
    signer_named,
    signer_of,
)

PARITY = 1 << 255
ANCHOR_BAD_SIGNATURE = 3


def domain_elsewhere(market: Market, place: str) -> Domain:
    """The domain of another chain, or of another contract on this chain."""
    if place == "chain":
        return Domain(market.domain.chain_id + 1, market.domain.escrow)
    return Domain(market.domain.chain_id, market.contracts.usage_anchor.address)


def compact(r: bytes, s: bytes, v: int) -> tuple[bytes, bytes]:
    """EIP-2098 without any check: a high s runs into the parity bit, as it would on chain."""
    return r, (int.from_bytes(s, "big") | (PARITY if v == 28 else 0)).to_bytes(32, "big")


@pytest.mark.parametrize("place", ["chain", "contract"])
def test_settle__voucher_of_another_domain__is_skipped(market: Market, place: str) -> None:
    lease_id = market.open()
    foreign = market.voucher(lease_id, USD, domain=domain_elsewhere(market, place))
    check_skipped(market.settle(foreign), market.escrow, SKIPPED_SIGNATURE)
    check_skipped(market.settle(market.voucher(lease_id, USD)), market.escrow)
    check_lease(market, lease_id, settled=USD)


@pytest.mark.parametrize(
    "forge",
    [
        lambda r, vs: (r, (int.from_bytes(vs, "big") ^ PARITY).to_bytes(32, "big")),
        lambda r, vs: (ZERO32, vs),
        lambda r, vs: (r, ZERO32),
        lambda r, vs: (ZERO32, ZERO32),
        lambda r, vs: (r, PARITY.to_bytes(32, "big")),
        lambda r, vs: (vs, r),
        lambda r, vs: (b"\xff" * 32, vs),
        lambda r, vs: (r, (HALF_ORDER + 1).to_bytes(32, "big")),
        lambda r, vs: (r, b"\xff" * 32),
    ],
    ids=["parity", "r_0", "s_0", "zeros", "s_0_with_parity", "swapped", "r_above_order", "s_just_high", "ones"],
)
def test_settle__forged_signature__is_skipped(
    market: Market, forge: Callable[[bytes, bytes], tuple[bytes, bytes]]
) -> None:
    lease_id = market.open()
    *head, r, vs = market.voucher(lease_id, USD)
    check_skipped(market.settle((*head, *forge(r, vs))), market.escrow, SKIPPED_SIGNATURE)
    check_lease(market, lease_id, settled=0)
    check_skipped(market.settle((*head, r, vs)), market.escrow)


def test_settle__high_s_twin__is_skipped(market: Market) -> None:
    lease_id = market.open()
    signature = market.session.sign(market.domain, Voucher(lease_id=lease_id, cumulative=USD))
    r, high_s, v = low_s_twin(signature)
    forged = (lease_id, USD, ZERO32, *compact(r, high_s, v))
    check_skipped(market.settle(forged), market.escrow, SKIPPED_SIGNATURE)
    check_lease(market, lease_id, settled=0)


def test_settle__any_field_changed_after_signing__is_skipped(market: Market) -> None:
    lease_id, other = market.open(), market.open()
    _, cumulative, context, r, vs = market.voucher(lease_id, USD, b"\x05" * 32)
    changed = [
        (other, cumulative, context, r, vs),
        (lease_id, cumulative + 1, context, r, vs),
        (lease_id, cumulative + 2**128, context, r, vs),
        (lease_id, cumulative, ZERO32, r, vs),
    ]
    check_skipped(market.settle(*changed), market.escrow, *[SKIPPED_SIGNATURE] * 4)
    receipt = market.settle((lease_id, cumulative, context, r, vs))
    assert only_event(receipt, market.escrow.VoucherSettled).context == b"\x05" * 32


@pytest.mark.parametrize("signer", ["owner", "node", "stranger"])
def test_settle__signed_by_anyone_but_the_session_key__is_skipped(market: Market, signer: str) -> None:
    keys: dict[str, Signer] = {
        "owner": signer_of(market.consumer),
        "node": market.node,
        "stranger": signer_of(market.stranger),
    }
    lease_id = market.open()
    check_skipped(market.settle(market.voucher(lease_id, USD, session=keys[signer])), market.escrow, SKIPPED_SIGNATURE)


def test_open_lease__signer_zero__is_refused(market: Market, consumer: Any) -> None:
    request = market.request(signer=ZERO_ADDRESS)
    with ape.reverts("leases: no signer"):
        market.escrow.open_lease(request.as_tuple(), b"", sender=consumer)


@pytest.mark.parametrize("place", ["chain", "contract"])
def test_open_lease__request_of_another_domain__is_refused(market: Market, place: str) -> None:
    request = market.request()
    key = signer_of(market.consumer)
    foreign = key.sign(domain_elsewhere(market, place), request).to_bytes()
    with ape.reverts("leases: bad signature"):
        market.escrow.open_lease(request.as_tuple(), foreign, sender=market.stranger)
    market.escrow.open_lease(request.as_tuple(), key.sign(market.domain, request).to_bytes(), sender=market.stranger)


@pytest.mark.parametrize("v", [0, 1, 26, 29, 255])
def test_open_lease__v_garbage__is_refused(market: Market, v: int) -> None:
    request = market.request()
    signature = signer_of(market.consumer).sign(market.domain, request).to_bytes()
    with ape.reverts("leases: bad signature"):
        market.escrow.open_lease(request.as_tuple(), signature[:64] + bytes([v]), sender=market.stranger)


@pytest.mark.parametrize("length", [0, 1, 64, 66, 130, 1024])
def test_open_lease__signature_of_another_length__is_refused(market: Market, length: int) -> None:
    request = market.request()
    signature = signer_of(market.consumer).sign(market.domain, request).to_bytes()
    with ape.reverts("leases: bad signature"):
        market.escrow.open_lease(request.as_tuple(), signature.ljust(length, b"\0")[:length], sender=market.stranger)


def test_open_lease__high_s_twin__is_refused(market: Market) -> None:
    request = market.request()
    r, high_s, v = low_s_twin(signer_of(market.consumer).sign(market.domain, request))
    with ape.reverts("leases: bad signature"):
        market.escrow.open_lease(request.as_tuple(), r + high_s + bytes([v]), sender=market.stranger)


def test_open_lease__owner_zero_with_a_signature_that_recovers_to_zero__is_refused(market: Market) -> None:
    request = market.request(owner=ZERO_ADDRESS)
    with ape.reverts("leases: bad signature"):
        market.escrow.open_lease(request.as_tuple(), bytes(64) + b"\x1b", sender=market.stranger)


def test_open_lease__any_field_changed_after_signing__is_refused(market: Market) -> None:
    request = market.request()
    signature = signer_of(market.consumer).sign(market.domain, request).to_bytes()
    for position, value in enumerate(request.as_tuple()):
        if isinstance(value, int):
            changed: Any = value + 1
        elif isinstance(value, bytes):
            changed = b"\x09" * 32
        else:
            changed = market.stranger.address if position else market.deployer.address
        fields = list(request.as_tuple())
        fields[position] = changed
        with ape.reverts("leases: bad signature"):
            market.escrow.open_lease(tuple(fields), signature, sender=market.stranger)


@pytest.mark.parametrize("place", ["chain", "contract"])
def test_submit__anchor_of_another_domain__is_skipped(market: Market, place: str) -> None:
    anchor = market.anchor(1, b"\x01" * 32, domain=domain_elsewhere(market, place))
    receipt = market.contracts.usage_anchor.submit([anchor], sender=market.stranger)
    assert only_event(receipt, market.contracts.usage_anchor.AnchorSkipped).reason == ANCHOR_BAD_SIGNATURE


def test_submit__high_s_and_zero_signatures__are_skipped(market: Market) -> None:
    root = b"\x01" * 32
    r, high_s, v = low_s_twin(market.node.sign(market.domain, Anchor(provider=market.provider, count=1, root=root)))
    head = (market.provider, 0, ZERO32, 1, root)
    unregistered = (999, 0, ZERO32, 1, root, ZERO32, ZERO32)
    batch = [(*head, *compact(r, high_s, v)), (*head, ZERO32, ZERO32), unregistered]
    receipt = market.contracts.usage_anchor.submit(batch, sender=market.stranger)
    events = receipt.decode_logs(market.contracts.usage_anchor.AnchorSkipped)
    assert [event.reason for event in events] == [ANCHOR_BAD_SIGNATURE] * 3
    assert market.contracts.usage_anchor.latest(market.provider) == ZERO32
    assert market.contracts.usage_anchor.latest(999) == ZERO32


@pytest.mark.parametrize("place", ["chain", "contract"])
def test_rotate_node_key__proof_of_another_domain__is_refused(market: Market, place: str) -> None:
    key = signer_named("next node")
    message = NodeKey(owner=market.provider_owner.address)
    foreign = key.sign(domain_elsewhere(market, place), message).compact()
    with ape.reverts("registry: bad node key signature"):
        market.registry.rotate_node_key(market.provider, key.address, *foreign, sender=market.provider_owner)
    proof = key.sign(market.domain, message).compact()
    market.registry.rotate_node_key(market.provider, key.address, *proof, sender=market.provider_owner)


def test_register__proof_meant_for_another_owner__is_refused(market: Market, accounts: Any) -> None:
    squatter, victim, key = accounts[4], accounts[5], signer_named("next node")
    market.stake(squatter, 10_000 * 10**18)
    proof = market.sign_node_key(victim, key)
    with ape.reverts("registry: bad node key signature"):
        market.registry.register(key.address, *proof, ZERO32, sender=squatter)


def test_settle__signature_of_either_parity__is_accepted(market: Market) -> None:
    lease_id = market.open()
    parities = set()
    for cumulative in range(1, 20):
        signature = market.session.sign(market.domain, Voucher(lease_id=lease_id, cumulative=cumulative))
        check_skipped(market.settle((lease_id, cumulative, ZERO32, *signature.compact())), market.escrow)
        parities.add(signature.v)
        if parities == {27, 28}:
            return
    raise AssertionError("19 signatures of one parity")
