"""Hypothesis strategies for every signed type."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from protocol.address import to_address
from protocol.signing import CURVE_ORDER, HALF_ORDER, Signature
from protocol.typed_data import MAX_SLA_CREDIT_BPS, MESSAGE_TYPES, OFFER_KINDS, Domain, Member, Message, Terms

bytes32 = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).map(to_address)
private_keys = st.integers(1, CURVE_ORDER - 1).map(lambda key: key.to_bytes(32, "big"))


def uints(bits: int) -> st.SearchStrategy[int]:
    """All of uint`bits`, its ends often."""
    return st.one_of(st.sampled_from([0, 1, (1 << bits) - 1]), st.integers(0, (1 << bits) - 1))


domains = st.builds(Domain, uints(256), addresses)
signatures = st.builds(
    Signature, st.integers(1, CURVE_ORDER - 1), st.integers(1, HALF_ORDER), st.sampled_from([27, 28])
)


def bits_of(member: Member) -> int:
    """The width of an unsigned member."""
    return int(member.solidity_type.removeprefix("uint"))


def values_of(message_type: type[Message], member: Member) -> st.SearchStrategy[Any]:
    """Every value that a member may have."""
    if message_type is Terms and member.name == "offerKind":
        return st.integers(0, OFFER_KINDS - 1)
    if message_type is Terms and member.name == "slaCreditBps":
        return st.integers(0, MAX_SLA_CREDIT_BPS)
    if message_type is Terms and member.name == "unitScale":
        return uints(64).filter(bool)
    if member.solidity_type == "address":
        return addresses
    if member.solidity_type == "bytes32":
        return bytes32
    if member.solidity_type == "bool":
        return st.booleans()
    return uints(bits_of(member))


def messages_of(message_type: type[Message]) -> st.SearchStrategy[Message]:
    """Every message of a type."""
    members = {member.name: values_of(message_type, member) for member in message_type.MEMBERS}
    return st.fixed_dictionaries(members).map(message_type.from_dict)


messages = st.one_of([messages_of(message_type) for message_type in MESSAGE_TYPES])
