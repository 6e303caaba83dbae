"""The EIP-712 messages of the market, and their digests.

One domain serves every type: name "OpenClaw Compute Market", version "1", the chain's id and the LeaseEscrow.

Python values: addresses are EIP-55 checksummed `str` (`protocol.address.to_address` makes one), bytes32 are `bytes`
of length 32, integers are `int` (never `bool`), bool is `bool`. A message is checked when it is built: one that
exists can be encoded. Amounts and prices are in base units of the token, times ending in `_at`, `expiry` and
`deadline` are Unix seconds, `_ms` are milliseconds, `_bps` are hundredths of a percent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

from protocol.address import address_bytes, check_address
from protocol.exceptions import InvalidField
from protocol.hashing import ZERO_BYTES32, keccak, word

DOMAIN_NAME = "OpenClaw Compute Market"
DOMAIN_VERSION = "1"
MAX_SLA_CREDIT_BPS = 5_000
"""The largest part of a request's cost that an SLA credit may take back."""
OFFER_KINDS = 5

_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_DOMAIN_HEAD = keccak(_DOMAIN_TYPE.encode()) + keccak(DOMAIN_NAME.encode()) + keccak(DOMAIN_VERSION.encode())
_MEMBER = re.compile(r"(address|bool|bytes32|uint(?:8|16|32|40|64|96|128|256)) ([a-z][A-Za-z0-9]*)")

Scalar = int | bool | str | bytes


class Member(NamedTuple):
    """One member of an EIP-712 struct: its name in the type, its type, the Python attribute, check and encoder."""

    name: str
    solidity_type: str
    attribute: str
    check: Callable[[Any, str], None]
    encode: Callable[[Any], bytes]


def check_uint(value: object, name: str, bits: int) -> None:
    """Raise InvalidField naming `name` unless `value` is an int within uint`bits`."""
    if type(value) is not int:
        raise InvalidField(name, f"not an integer but {type(value).__name__}")
    if value < 0 or value >> bits:
        raise InvalidField(name, f"out of range for uint{bits}")


def check_bytes32(value: object, name: str) -> None:
    """Raise InvalidField naming `name` unless `value` is 32 bytes."""
    if type(value) is not bytes:
        raise InvalidField(name, f"not bytes but {type(value).__name__}")
    if len(value) != 32:
        raise InvalidField(name, f"has {len(value)} bytes instead of 32")


def _check_bool(value: object, name: str) -> None:
    if type(value) is not bool:
        raise InvalidField(name, f"not a bool but {type(value).__name__}")


def _encode_address(value: str) -> bytes:
    return bytes(12) + address_bytes(value)


def _as_is(value: bytes) -> bytes:
    return value


def _member(solidity_type: str, name: str) -> Member:
    attribute = re.sub(r"[A-Z]", lambda match: "_" + match.group().lower(), name)
    if solidity_type == "address":
        return Member(name, solidity_type, attribute, check_address, _encode_address)
    if solidity_type == "bytes32":
        return Member(name, solidity_type, attribute, check_bytes32, _as_is)
    if solidity_type == "bool":
        return Member(name, solidity_type, attribute, _check_bool, word)
    bits = int(solidity_type.removeprefix("uint"))
    return Member(name, solidity_type, attribute, lambda value, field: check_uint(value, field, bits), word)


class Message:
    """Base of the signed structs. Subclasses set TYPE, the exact EIP-712 type string."""

    __slots__ = ()

    TYPE: ClassVar[str]
    TYPE_HASH: ClassVar[bytes]
    MEMBERS: ClassVar[tuple[Member, ...]]

    def __init_subclass__(cls) -> None:
        cls.TYPE_HASH = keccak(cls.TYPE.encode())
        cls.MEMBERS = tuple(_member(*match) for match in _MEMBER.findall(cls.TYPE))

    def __post_init__(self) -> None:
        for member in self.MEMBERS:
            member.check(getattr(self, member.attribute), member.attribute)

    def as_tuple(self) -> tuple[Scalar, ...]:
        """The values in the order of the type: a struct argument of a contract call."""
        return tuple(getattr(self, member.attribute) for member in self.MEMBERS)

    def as_dict(self) -> dict[str, Scalar]:
        """The values under their EIP-712 names (camelCase)."""
        return {member.name: getattr(self, member.attribute) for member in self.MEMBERS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The reverse of `as_dict`. Raises InvalidField on a missing, unknown or unfit member."""
        names = {member.name for member in cls.MEMBERS}
        for name in values:
            if name not in names:
                raise InvalidField(str(name)[:64], f"not a member of {cls.__name__}")
        for member in cls.MEMBERS:
            if member.name not in values:
                raise InvalidField(member.attribute, "missing")
        return cls(**{member.attribute: values[member.name] for member in cls.MEMBERS})


@dataclass(frozen=True, slots=True)
class OpenLease(Message):
    """The owner's consent to one lease; signed by the owner's wallet."""

    TYPE: ClassVar[str] = (
        "OpenLease(address owner,uint32 provider,uint32 offerId,uint32 version,address token,uint96 amount,"
        "address signer,uint40 expiry,uint32 closeDelay,bytes32 termsDigest,uint64 nonce,uint40 deadline)"
    )

    owner: str
    provider: int
    offer_id: int
    version: int
    token: str
    amount: int
    signer: str
    expiry: int
    close_delay: int
    terms_digest: bytes
    nonce: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Voucher(Message):
    """Payment: `cumulative` is all that the lease owes so far, exactly; signed by the lease's session key.

    `context` is zero, or `ids.voucher_context(...)`: then the voucher authorises that request too.
    """

    TYPE: ClassVar[str] = "Voucher(bytes32 leaseId,uint128 cumulative,bytes32 context)"

    lease_id: bytes
    cumulative: int
    context: bytes = ZERO_BYTES32


@dataclass(frozen=True, slots=True)
class Receipt(Message):
    """What the provider says it did for one request up to chunk `part`; signed by its node key.

    `cost` is that request's so far, after any SLA credit; `units_in` excludes `units_cached`.
    """

    TYPE: ClassVar[str] = (
        "Receipt(bytes32 leaseId,uint64 seq,uint32 part,bool final,uint128 cost,uint64 unitsIn,uint64 unitsOut,"
        "uint64 unitsCached,bytes32 requestHash,bytes32 responseHash,uint32 ttftMs,uint32 durationMs,uint64 endedAt,"
        "bytes32 modelFingerprint)"
    )

    lease_id: bytes
    seq: int
    part: int
    final: bool
    cost: int
    units_in: int
    units_out: int
    units_cached: int
    request_hash: bytes
    response_hash: bytes
    ttft_ms: int
    duration_ms: int
    ended_at: int
    model_fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Anchor(Message):
    """The root over the first `count` final receipts of a provider; signed by its node key."""

    TYPE: ClassVar[str] = "Anchor(uint32 provider,uint64 count,bytes32 root)"

    provider: int
    count: int
    root: bytes


@dataclass(frozen=True, slots=True)
class NodeKey(Message):
    """Proof of possession: the new node key signs the owner it will serve, so nobody can squat another's key."""

    TYPE: ClassVar[str] = "NodeKey(address owner)"

    owner: str


@dataclass(frozen=True, slots=True)
class Document(Message):
    """A provider's statement that it published the document of this digest; signed by its node key, off chain only."""

    TYPE: ClassVar[str] = "Document(bytes32 digest)"

    digest: bytes


@dataclass(frozen=True, slots=True)
class Terms(Message):
    """Prices and promises of an offer. Never signed itself: `terms_digest` = `hash_struct(terms)`, without domain.

    Prices are base units of `token` per `unit_scale` units. `sla_ttft_ms` and `sla_milli_tokens_per_s` are promises,
    0 for none; `period` is the length of one prepaid period in seconds, 0 for services by usage; `doc_hash` is the
    digest of the terms document.
    """

    TYPE: ClassVar[str] = (
        "Terms(uint8 offerKind,address token,uint128 priceIn,uint128 priceOut,uint128 priceCached,uint64 unitScale,"
        "uint32 slaTtftMs,uint64 slaMilliTokensPerS,uint16 slaCreditBps,uint32 period,bytes32 docHash)"
    )

    offer_kind: int
    token: str
    price_in: int
    price_out: int
    price_cached: int
    unit_scale: int
    sla_ttft_ms: int
    sla_milli_tokens_per_s: int
    sla_credit_bps: int
    period: int
    doc_hash: bytes

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if self.offer_kind >= OFFER_KINDS:
            raise InvalidField("offer_kind", f"no kind of offer has number {self.offer_kind}")
        if self.unit_scale == 0:
            raise InvalidField("unit_scale", "zero")
        if self.sla_credit_bps > MAX_SLA_CREDIT_BPS:
            raise InvalidField("sla_credit_bps", f"above {MAX_SLA_CREDIT_BPS}")


MESSAGE_TYPES: tuple[type[Message], ...] = (OpenLease, Voucher, Receipt, Anchor, NodeKey, Document, Terms)


@dataclass(frozen=True, slots=True)
class Domain:
    """The EIP-712 domain of one deployment: `chain_id` and the LeaseEscrow's address (EIP-55)."""

    chain_id: int
    escrow: str
    separator: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_uint(self.chain_id, "chain_id", 256)
        check_address(self.escrow, "escrow")
        separator = keccak(_DOMAIN_HEAD + word(self.chain_id) + _encode_address(self.escrow))
        object.__setattr__(self, "separator", separator)


def hash_struct(message: Message) -> bytes:
    """EIP-712 hashStruct: 32 bytes, independent of chain and contract."""
    parts = [message.TYPE_HASH]
    parts += [member.encode(getattr(message, member.attribute)) for member in message.MEMBERS]
    return keccak(b"".join(parts))


def digest(domain: Domain, message: Message) -> bytes:
    """The 32 bytes that are signed: keccak(0x1901 ‖ separator ‖ hashStruct)."""
    return keccak(b"\x19\x01" + domain.separator + hash_struct(message))


def typed_data(domain: Domain, message: Message) -> dict[str, Any]:
    """The full EIP-712 document, as wallets and eth-account's `encode_typed_data` take it (bytes stay bytes)."""
    name = type(message).__name__
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            name: [{"name": member.name, "type": member.solidity_type} for member in message.MEMBERS],
        },
        "primaryType": name,
        "domain": {
            "name": DOMAIN_NAME,
            "version": DOMAIN_VERSION,
            "chainId": domain.chain_id,
            "verifyingContract": domain.escrow,
        },
        "message": message.as_dict(),
    }
