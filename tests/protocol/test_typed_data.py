"""The signed types: agreement with eth-account, and every field wrong in turn."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from eth_account._utils.encode_typed_data.encoding_and_hashing import hash_struct as peer_hash_struct
from eth_account.messages import encode_typed_data
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak as peer_keccak
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocol import address
from protocol.exceptions import InvalidField
from protocol.typed_data import MESSAGE_TYPES, Domain, Member, Message, Terms, digest, hash_struct, typed_data
from tests.protocol import strategies

EVERY_TYPE = pytest.mark.parametrize("message_type", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
EVERY_MEMBER = pytest.mark.parametrize(
    ("message_type", "member"),
    [
        pytest.param(kind, member, id=f"{kind.__name__}-{member.name}")
        for kind in MESSAGE_TYPES
        for member in kind.MEMBERS
    ],
)
DOMAIN = Domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")


def peer_digest(domain: Domain, message: Message) -> bytes:
    signable = encode_typed_data(full_message=typed_data(domain, message))
    return peer_keccak(b"\x19" + signable.version + signable.header + signable.body)


def smallest(message_type: type[Message]) -> Message:
    values: dict[str, Any] = {"address": address.ZERO_ADDRESS, "bytes32": bytes(32), "bool": False}
    fields = {member.name: values.get(member.solidity_type, 0) for member in message_type.MEMBERS}
    if message_type is Terms:
        fields["unitScale"] = 1
    return message_type.from_dict(fields)


def wrong_values(member: Member) -> list[Any]:
    if member.solidity_type == "address":
        mixed = "0x5FbDB2315678afecb367f032d93F642f64180aA3"
        return [
            "",
            "0x",
            "0x" + "0" * 39,
            "0x" + "g" * 40,
            mixed,
            mixed.lower(),
            bytes(20),
            0,
            None,
            "0x" + "0" * 40 + "\n",
        ]
    if member.solidity_type == "bytes32":
        return [b"", bytes(31), bytes(33), bytearray(32), "0x" + "00" * 32, 0, None]
    if member.solidity_type == "bool":
        return [0, 1, "true", None]
    return [-1, 1 << strategies.bits_of(member), True, 1.0, "1", None, float("nan")]


@EVERY_TYPE
def test_members__follow_the_type_string(message_type: type[Message]) -> None:
    members = ",".join(f"{member.solidity_type} {member.name}" for member in message_type.MEMBERS)
    assert f"{message_type.__name__}({members})" == message_type.TYPE
    attributes = [field.name for field in dataclasses.fields(message_type)]  # type: ignore[arg-type]
    assert attributes == [member.attribute for member in message_type.MEMBERS]
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in attributes)


@given(strategies.domains, strategies.messages)
def test_digest__agrees_with_eth_account(domain: Domain, message: Message) -> None:
    data = typed_data(domain, message)
    assert hash_struct(message) == peer_hash_struct(
        data["primaryType"], {data["primaryType"]: data["types"][data["primaryType"]]}, data["message"]
    )
    assert digest(domain, message) == peer_digest(domain, message)


@EVERY_MEMBER
def test_message__wrong_value__is_refused_by_name(message_type: type[Message], member: Member) -> None:
    good = smallest(message_type)
    for wrong in wrong_values(member):
        with pytest.raises(InvalidField) as caught:
            dataclasses.replace(good, **{member.attribute: wrong})  # type: ignore[type-var]
        assert caught.value.field == member.attribute
        assert member.attribute in str(caught.value)


@EVERY_MEMBER
@settings(max_examples=20)
@given(data=st.data())
def test_digest__changes_with_every_field(message_type: type[Message], member: Member, data: st.DataObject) -> None:
    message = data.draw(strategies.messages_of(message_type))
    other = data.draw(strategies.values_of(message_type, member))
    assume(other != getattr(message, member.attribute))
    changed = dataclasses.replace(message, **{member.attribute: other})  # type: ignore[type-var]
    assert digest(DOMAIN, changed) != digest(DOMAIN, message)
    assert hash_struct(changed) != hash_struct(message)


@given(strategies.messages, strategies.domains, strategies.domains)
def test_digest__changes_with_the_domain(message: Message, one: Domain, other: Domain) -> None:
    assume(one != other)
    assert digest(one, message) != digest(other, message)
    assert hash_struct(message) == hash_struct(message)


@given(strategies.messages)
def test_message__as_dict_and_back(message: Message) -> None:
    assert type(message).from_dict(message.as_dict()) == message
    assert list(message.as_tuple()) == list(message.as_dict().values())


@EVERY_TYPE
def test_from_dict__missing_or_unknown_member__is_refused(message_type: type[Message]) -> None:
    values = smallest(message_type).as_dict()
    for member in message_type.MEMBERS:
        with pytest.raises(InvalidField) as caught:
            message_type.from_dict({name: value for name, value in values.items() if name != member.name})
        assert caught.value.field == member.attribute
    with pytest.raises(InvalidField, match="not a member"):
        message_type.from_dict({**values, "extra": 1})


@EVERY_TYPE
def test_message__is_frozen_and_slotted(message_type: type[Message]) -> None:
    message = smallest(message_type)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(message, message_type.MEMBERS[0].attribute, 1)
    assert not hasattr(message, "__dict__")


@pytest.mark.parametrize(("field", "value"), [("offer_kind", 5), ("unit_scale", 0), ("sla_credit_bps", 5_001)])
def test_terms__unusable_value__is_refused(field: str, value: Any) -> None:
    terms = smallest(Terms)
    assert isinstance(terms, Terms)
    with pytest.raises(InvalidField) as caught:
        dataclasses.replace(terms, **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("chain_id", [-1, 1 << 256, True, "1", None])
def test_domain__wrong_chain_id__is_refused(chain_id: Any) -> None:
    with pytest.raises(InvalidField, match="chain_id"):
        Domain(chain_id, DOMAIN.escrow)


@pytest.mark.parametrize("escrow", ["", DOMAIN.escrow.lower(), DOMAIN.escrow[:-1], bytes(20), None])
def test_domain__wrong_escrow__is_refused(escrow: Any) -> None:
    with pytest.raises(InvalidField, match="escrow"):
        Domain(1, escrow)


@given(st.binary(min_size=20, max_size=20))
def test_to_address__agrees_with_eth_utils(raw: bytes) -> None:
    expected = to_checksum_address(raw)
    spellings = [raw, bytearray(raw), expected, expected.lower(), "0x" + expected[2:].upper()]
    assert {address.to_address(spelling) for spelling in spellings} == {expected}
    assert address.address_bytes(expected) == raw


@pytest.mark.parametrize(
    "value", ["0x5FbDB2315678afecb367f032d93F642f64180aA3", "5FbDB2315678afecb367f032d93F642f64180aa3"]
)
def test_to_address__wrong_checksum_or_prefix__is_refused(value: str) -> None:
    with pytest.raises(InvalidField, match="owner"):
        address.to_address(value, "owner")


@given(st.one_of(st.text(max_size=50), st.binary(max_size=40), st.none(), st.integers()))
def test_to_address__anything__raises_only_our_error(value: object) -> None:
    try:
        found = address.to_address(value, "owner")
    except InvalidField:
        return
    assert address.to_address(found) == found
