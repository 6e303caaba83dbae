"""Signing and recovering messages (secp256k1 through libsecp256k1).

A signature here is strict, as the contracts are: r and s within the group, low s, v of 27 or 28. On the wire it is
65 bytes r ‖ s ‖ v; on chain the compact form of EIP-2098.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from coincurve import PrivateKey as _CurveKey
from coincurve import PublicKey as _CurvePoint

from protocol.address import to_address
from protocol.exceptions import InvalidField, InvalidSignature
from protocol.hashing import keccak
from protocol.typed_data import Domain, Message, check_bytes32, digest

CURVE_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
HALF_ORDER = CURVE_ORDER // 2
"""The largest s that is accepted: the other root of every signature is refused."""

_WIRE = re.compile(r"0x[0-9a-f]{130}", re.ASCII)
_PARITY_BIT = 1 << 255


@dataclass(frozen=True, slots=True)
class Signature:
    """A strict signature. Raises InvalidSignature when built from anything else."""

    r: int
    s: int
    v: int

    def __post_init__(self) -> None:
        if type(self.r) is not int or type(self.s) is not int or type(self.v) is not int:
            raise InvalidSignature("r, s and v must be integers")
        if not 0 < self.r < CURVE_ORDER:
            raise InvalidSignature("r is out of range")
        if not 0 < self.s <= HALF_ORDER:
            raise InvalidSignature("s is out of range or high")
        if self.v not in (27, 28):
            raise InvalidSignature("v is neither 27 nor 28")

    def to_bytes(self) -> bytes:
        """65 bytes: r ‖ s ‖ v."""
        return self.r.to_bytes(32, "big") + self.s.to_bytes(32, "big") + bytes([self.v])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The reverse of `to_bytes`; anything but strict 65 bytes raises InvalidSignature."""
        if not isinstance(data, bytes | bytearray) or len(data) != 65:
            raise InvalidSignature("a signature has 65 bytes")
        return cls(int.from_bytes(data[:32], "big"), int.from_bytes(data[32:64], "big"), data[64])

    def to_hex(self) -> str:
        """The wire form: 0x and 130 lower-case hex digits."""
        return "0x" + self.to_bytes().hex()

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """The reverse of `to_hex`; raises InvalidSignature."""
        if not isinstance(text, str) or not _WIRE.fullmatch(text):
            raise InvalidSignature("a signature is written as 0x and 130 lower-case hex digits")
        return cls.from_bytes(bytes.fromhex(text[2:]))

    def compact(self) -> tuple[bytes, bytes]:
        """(r, vs) of EIP-2098, each 32 bytes: what the contracts take."""
        vs = self.s | _PARITY_BIT if self.v == 28 else self.s
        return self.r.to_bytes(32, "big"), vs.to_bytes(32, "big")

    @classmethod
    def from_compact(cls, r: bytes, vs: bytes) -> Self:
        """The reverse of `compact`; raises InvalidSignature."""
        if len(r) != 32 or len(vs) != 32:
            raise InvalidSignature("r and vs have 32 bytes each")
        packed = int.from_bytes(vs, "big")
        return cls(int.from_bytes(r, "big"), packed & ~_PARITY_BIT, 28 if packed & _PARITY_BIT else 27)


def _address_of(point: _CurvePoint) -> str:
    return to_address(keccak(point.format(compressed=False)[1:])[12:])


class Signer:
    """A private key that signs messages. Its representation and its errors never show the key."""

    __slots__ = ("_key", "address")

    address: str

    def __init__(self, private_key: bytes) -> None:
        """`private_key`: 32 bytes. Raises InvalidField("private_key") outside the curve's order."""
        if not isinstance(private_key, bytes) or len(private_key) != 32:
            raise InvalidField("private_key", "not 32 bytes")
        if not 0 < int.from_bytes(private_key, "big") < CURVE_ORDER:
            raise InvalidField("private_key", "out of range")
        self._key = _CurveKey(private_key)
        self.address = _address_of(self._key.public_key)

    @classmethod
    def generate(cls) -> Self:
        """A signer with a new random key."""
        return cls(_CurveKey().secret)

    @property
    def private_key(self) -> bytes:
        """The 32 bytes of the key, for a keystore."""
        return bytes(self._key.secret)

    def sign(self, domain: Domain, message: Message) -> Signature:
        """Sign `message` under `domain` (deterministic, RFC 6979)."""
        return self.sign_digest(digest(domain, message))

    def sign_digest(self, message_digest: bytes) -> Signature:
        """Sign 32 bytes that are already a digest. Raises InvalidField for anything else."""
        check_bytes32(message_digest, "digest")
        signed = self._key.sign_recoverable(message_digest, hasher=None)
        return Signature(int.from_bytes(signed[:32], "big"), int.from_bytes(signed[32:64], "big"), 27 + signed[64])

    def __repr__(self) -> str:
        return f"Signer({self.address})"


def recover_digest(message_digest: bytes, signature: Signature) -> str:
    """The address whose key signed these 32 bytes. Raises InvalidSignature if no key can have."""
    check_bytes32(message_digest, "digest")
    recoverable = signature.to_bytes()[:64] + bytes([signature.v - 27])
    try:
        point = _CurvePoint.from_signature_and_message(recoverable, message_digest, hasher=None)
    except ValueError as error:
        raise InvalidSignature("no key can have made this signature") from error
    return _address_of(point)


def recover(domain: Domain, message: Message, signature: Signature) -> str:
    """The address whose key signed `message` under `domain`. Raises InvalidSignature if no key can have."""
    return recover_digest(digest(domain, message), signature)


def verify(domain: Domain, message: Message, signature: Signature, signer: str) -> None:
    """Raise InvalidSignature unless `signer` (an EIP-55 address) signed `message` under `domain`."""
    recovered = recover(domain, message, signature)
    if recovered != signer:
        raise InvalidSignature(f"{type(message).__name__} is signed by {recovered}, not by {signer}")
