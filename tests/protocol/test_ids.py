"""Ids against eth-abi's encoding, and every argument wrong in turn."""

from __future__ import annotations

from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from protocol.exceptions import InvalidField
from protocol.ids import OfferKind, canonical_body, lease_id, lease_id_of, request_hash, voucher_context
from protocol.typed_data import Domain, OpenLease
from tests.protocol import strategies

LEASE: dict[str, Any] = {
    "chain_id": 31337,
    "escrow": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "owner": "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
    "nonce": 3,
    "provider": 4,
    "offer_id": 5,
    "version": 6,
    "signer": "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0",
    "terms_digest": b"\7" * 32,
}
CONTEXT: dict[str, Any] = {"seq": 1, "request_hash": b"\2" * 32, "max_cost": 3, "sent_at": 4}
WIDTHS = {
    "chain_id": 256,
    "nonce": 64,
    "provider": 32,
    "offer_id": 32,
    "version": 32,
    "seq": 64,
    "max_cost": 128,
    "sent_at": 64,
}


@given(strategies.domains, strategies.messages_of(OpenLease))
def test_lease_id__agrees_with_eth_abi(domain: Domain, request: OpenLease) -> None:
    types = ["uint256", "address", "address", "uint64", "uint32", "uint32", "uint32", "address", "bytes32"]
    values = [
        domain.chain_id,
        domain.escrow,
        request.owner,
        request.nonce,
        request.provider,
        request.offer_id,
        request.version,
        request.signer,
        request.terms_digest,
    ]
    assert lease_id_of(domain, request) == keccak(encode(types, values))


@given(strategies.uints(64), strategies.bytes32, strategies.uints(128), strategies.uints(64))
def test_voucher_context__agrees_with_eth_abi(seq: int, request: bytes, max_cost: int, sent_at: int) -> None:
    encoded = encode(["uint64", "bytes32", "uint128", "uint64"], [seq, request, max_cost, sent_at])
    assert voucher_context(seq, request, max_cost, sent_at) == keccak(encoded)


def _wrong(field: str, value: Any) -> list[Any]:
    if isinstance(value, bytes):
        return [bytes(31), "0x" + "00" * 32]
    if isinstance(value, str):
        return [value.lower(), value[:-1], bytes(20)]
    return [-1, 1 << WIDTHS[field], True, "1"]


@pytest.mark.parametrize("field", LEASE)
def test_lease_id__wrong_field__is_refused_by_name(field: str) -> None:
    for wrong in _wrong(field, LEASE[field]):
        with pytest.raises(InvalidField) as caught:
            lease_id(**{**LEASE, field: wrong})
        assert caught.value.field == field


@pytest.mark.parametrize("field", CONTEXT)
def test_voucher_context__wrong_field__is_refused_by_name(field: str) -> None:
    for wrong in _wrong(field, CONTEXT[field]):
        with pytest.raises(InvalidField) as caught:
            voucher_context(**{**CONTEXT, field: wrong})
        assert caught.value.field == field


def test_ids__change_with_every_field() -> None:
    others: dict[type, Any] = {int: 9, bytes: b"\x09" * 32, str: "0xCf7Ed3AccA5a467e9e704C703E8D87F634fB0Fc9"}
    leases = [lease_id(**{**LEASE, field: others[type(value)]}) for field, value in LEASE.items()]
    assert len({lease_id(**LEASE), *leases}) == len(LEASE) + 1
    contexts = [voucher_context(**{**CONTEXT, field: others[type(value)]}) for field, value in CONTEXT.items()]
    assert len({voucher_context(**CONTEXT), *contexts}) == len(CONTEXT) + 1


@given(strategies.bytes32, st.binary(max_size=300))
def test_request_hash__binds_salt_route_and_body(salt: bytes, body: bytes) -> None:
    found = request_hash(salt, canonical_body("POST /v1/embeddings", body))
    assert found == keccak(salt + b"POST /v1/embeddings\n" + body)
    assert found != request_hash(salt, canonical_body("POST /v1/completions", body))
    assert found != request_hash(salt, canonical_body("POST /v1/embeddings", body + b" "))


@pytest.mark.parametrize("salt", [b"", bytes(31), bytes(33), "0" * 32, None])
def test_request_hash__wrong_salt__is_refused(salt: Any) -> None:
    with pytest.raises(InvalidField, match="salt"):
        request_hash(salt, b"")


@pytest.mark.parametrize("route", ["", "POST /\n", "GET /é", "GET /\x00"])
def test_canonical_body__ambiguous_route__is_refused(route: str) -> None:
    with pytest.raises(InvalidField, match="route"):
        canonical_body(route, b"")


def test_offer_kinds__have_the_contracts_numbers() -> None:
    assert [kind.label for kind in OfferKind] == ["inference", "embedding", "search", "storage", "job"]
    assert [int(kind) for kind in OfferKind] == [0, 1, 2, 3, 4]
    assert all(OfferKind.from_label(kind.label) is kind for kind in OfferKind)
    with pytest.raises(InvalidField, match="offer_kind"):
        OfferKind.from_label("Inference")
