"""Signing: strict signatures, recovery, and agreement with eth-account."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocol.exceptions import InvalidField, InvalidSignature
from protocol.signing import CURVE_ORDER, HALF_ORDER, Signature, Signer, recover, recover_digest, verify
from protocol.typed_data import Domain, Message, Voucher, typed_data
from tests.protocol import strategies

DOMAIN = Domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
SIGNER = Signer(b"\x01" * 32)
VOUCHER = Voucher(b"\x22" * 32, 1_000)
GOOD = SIGNER.sign(DOMAIN, VOUCHER)


@settings(max_examples=40)
@given(strategies.private_keys, strategies.domains, strategies.messages)
def test_sign__agrees_with_eth_account(key: bytes, domain: Domain, message: Message) -> None:
    signer = Signer(key)
    signature = signer.sign(domain, message)
    signable = encode_typed_data(full_message=typed_data(domain, message))
    peer = Account.from_key(key)
    assert signer.address == peer.address
    assert signature.to_bytes() == bytes(peer.sign_message(signable).signature)
    assert Account.recover_message(signable, signature=signature.to_bytes()) == recover(domain, message, signature)
    verify(domain, message, signature, signer.address)


@given(strategies.messages, strategies.messages)
def test_verify__another_message__is_refused(message: Message, other: Message) -> None:
    assume(message != other)
    with pytest.raises(InvalidSignature):
        verify(DOMAIN, other, SIGNER.sign(DOMAIN, message), SIGNER.address)


@pytest.mark.parametrize("domain", [Domain(1, DOMAIN.escrow), Domain(31337, SIGNER.address)])
def test_verify__another_chain_or_contract__is_refused(domain: Domain) -> None:
    with pytest.raises(InvalidSignature, match=f"not by {SIGNER.address}"):
        verify(domain, VOUCHER, GOOD, SIGNER.address)


@given(st.integers(0, 65 * 8 - 1))
def test_verify__any_flipped_bit__is_refused(bit: int) -> None:
    data = bytearray(GOOD.to_bytes())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSignature):
        verify(DOMAIN, VOUCHER, Signature.from_bytes(bytes(data)), SIGNER.address)


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0},
        {"r": CURVE_ORDER},
        {"r": -1},
        {"r": True},
        {"r": "1"},
        {"s": 0},
        {"s": HALF_ORDER + 1},
        {"s": CURVE_ORDER - GOOD.s, "v": 55 - GOOD.v},
        {"s": None},
        {"v": 0},
        {"v": 1},
        {"v": 26},
        {"v": 29},
        {"v": 27.0},
    ],
    ids=str,
)
def test_signature__not_strict__is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSignature):
        dataclasses.replace(GOOD, **change)


def test_signature__largest_low_s__is_accepted() -> None:
    assert Signature(1, HALF_ORDER, 27).s == HALF_ORDER


@given(strategies.signatures)
def test_signature__every_form_and_back(signature: Signature) -> None:
    assert Signature.from_bytes(signature.to_bytes()) == signature
    assert Signature.from_hex(signature.to_hex()) == signature
    assert Signature.from_compact(*signature.compact()) == signature
    assert len(signature.to_bytes()) == 65


@given(strategies.signatures, strategies.bytes32)
def test_recover__any_signature__gives_an_address_or_our_error(signature: Signature, message_digest: bytes) -> None:
    try:
        address = recover_digest(message_digest, signature)
    except InvalidSignature:
        return
    assert address != SIGNER.address


@pytest.mark.parametrize(
    "data", [b"", GOOD.to_bytes()[:64], GOOD.to_bytes() + b"\0", bytes(65), b"\xff" * 65, None, "x"]
)
def test_from_bytes__malformed__is_refused(data: Any) -> None:
    with pytest.raises(InvalidSignature):
        Signature.from_bytes(data)


@given(st.text(max_size=140))
def test_from_hex__malformed__is_refused(text: str) -> None:
    with pytest.raises(InvalidSignature):
        Signature.from_hex(text)


@pytest.mark.parametrize("text", [GOOD.to_hex().upper(), GOOD.to_hex()[2:], GOOD.to_hex() + "\n", " " + GOOD.to_hex()])
def test_from_hex__second_spelling__is_refused(text: str) -> None:
    with pytest.raises(InvalidSignature):
        Signature.from_hex(text)


@pytest.mark.parametrize(("r", "vs"), [(bytes(31), bytes(32)), (bytes(32), bytes(32)), (b"\1" * 32, b"\xff" * 32)])
def test_from_compact__malformed__is_refused(r: bytes, vs: bytes) -> None:
    with pytest.raises(InvalidSignature):
        Signature.from_compact(r, vs)


@pytest.mark.parametrize(
    "key", [b"", bytes(32), b"\1" * 31, b"\xff" * 32, CURVE_ORDER.to_bytes(32, "big"), "1" * 32, None]
)
def test_signer__wrong_key__is_refused(key: Any) -> None:
    with pytest.raises(InvalidField, match="private_key"):
        Signer(key)


def test_signer__shows_only_its_address() -> None:
    signer = Signer.generate()
    assert repr(signer) == str(signer) == f"Signer({signer.address})"
    assert Signer(signer.private_key).address == signer.address
    assert Signer.generate().address != signer.address


def test_sign_digest__wrong_length__is_refused() -> None:
    with pytest.raises(InvalidField, match="digest"):
        SIGNER.sign_digest(os.urandom(31))
    with pytest.raises(InvalidField, match="digest"):
        recover_digest(os.urandom(33), GOOD)
