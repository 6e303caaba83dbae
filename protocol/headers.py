"""The wire headers between gateway and provider, version 1.

A value is a row of `name=value` pairs joined by `;`, in a fixed order, all present, without spaces. Integers are
decimal without leading zeros, bytes are 0x and lower-case hex, addresses EIP-55, booleans `true` or `false`; so every
message has one spelling, and the text of a signed message is what ledgers keep and re-send. Parsers raise
InvalidHeader and nothing else, and their messages never repeat the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from protocol.address import to_address
from protocol.exceptions import InvalidField, InvalidHeader, UnsupportedVersion
from protocol.ids import voucher_context
from protocol.signing import Signature, recover
from protocol.signing import verify as verify_signature
from protocol.typed_data import Anchor, Domain, Message, Receipt, Scalar, Voucher, check_bytes32, check_uint

VERSION = "1"

VERSION_HEADER = "Clawmarket-Version"
VOUCHER_HEADER = "Clawmarket-Voucher"
REQUEST_HEADER = "Clawmarket-Request"
RECEIPT_HEADER = "Clawmarket-Receipt"
EXPOSURE_HEADER = "Clawmarket-Exposure"
REFUSAL_HEADER = "Clawmarket-Refusal"

MAX_VALUE_CHARS = 1024
"""The longest value of any of our headers."""
MAX_CLOCK_SKEW_S = 120
"""A provider refuses a request, and a gateway a receipt, whose time is off by more than this."""
SEQ_WINDOW = 1024
"""A provider accepts a new `seq` only if it is above the highest so far less this."""

_UINT = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)
_BYTES32 = re.compile(r"0x[0-9a-f]{64}", re.ASCII)

HeaderSource = Mapping[str, str] | Iterable[tuple[str, str]]
MessageT = TypeVar("MessageT", bound=Message)


class RefusalCode(StrEnum):
    """Why a provider refuses a request or stops serving; `http_status` goes with it."""

    UNSUPPORTED_VERSION = "unsupported_version"
    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad_signature"
    REQUEST_HASH = "request_hash"
    CLOCK = "clock"
    UNKNOWN_LEASE = "unknown_lease"
    LEASE_ENDED = "lease_ended"
    TERMS = "terms"
    SEQ_TOO_OLD = "seq_too_old"
    OVERDRAWN = "overdrawn"
    UNPAID = "unpaid"
    PREPAY = "prepay"
    CAPS = "caps"
    BUSY = "busy"

    @property
    def http_status(self) -> int:
        """The HTTP status of an answer that carries this refusal."""
        return _STATUS[self]


_STATUS: Mapping[RefusalCode, int] = {
    RefusalCode.UNSUPPORTED_VERSION: 400,
    RefusalCode.MALFORMED: 400,
    RefusalCode.BAD_SIGNATURE: 401,
    RefusalCode.REQUEST_HASH: 400,
    RefusalCode.CLOCK: 400,
    RefusalCode.UNKNOWN_LEASE: 403,
    RefusalCode.LEASE_ENDED: 403,
    RefusalCode.TERMS: 409,
    RefusalCode.SEQ_TOO_OLD: 409,
    RefusalCode.OVERDRAWN: 402,
    RefusalCode.UNPAID: 402,
    RefusalCode.PREPAY: 402,
    RefusalCode.CAPS: 413,
    RefusalCode.BUSY: 503,
}


@dataclass(frozen=True, slots=True)
class Signed(Generic[MessageT]):
    """A message with its signature; the signer is not yet known to be the right one."""

    message: MessageT
    signature: Signature

    def recover(self, domain: Domain) -> str:
        """The address whose key signed. Raises InvalidSignature if no key can have."""
        return recover(domain, self.message, self.signature)

    def verify(self, domain: Domain, signer: str) -> None:
        """Raise InvalidSignature unless `signer` signed."""
        verify_signature(domain, self.message, self.signature, signer)

    def encode(self) -> str:
        """The text for a header, a stream event or a ledger."""
        return encode_signed(self.message, self.signature)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a voucher's context commits to, and the salt of the request hash.

    `max_cost` is the most the request may cost in base units, `sent_at` the gateway's clock in Unix seconds.
    """

    seq: int
    request_hash: bytes
    max_cost: int
    sent_at: int
    salt: bytes

    def __post_init__(self) -> None:
        check_uint(self.seq, "seq", 64)
        check_bytes32(self.request_hash, "request_hash")
        check_uint(self.max_cost, "max_cost", 128)
        check_uint(self.sent_at, "sent_at", 64)
        check_bytes32(self.salt, "salt")

    @property
    def context(self) -> bytes:
        """The `context` of the voucher that authorises this request."""
        return voucher_context(self.seq, self.request_hash, self.max_cost, self.sent_at)

    def is_timely(self, now: int) -> bool:
        """Whether `sent_at` is within the allowed skew of `now` (Unix seconds)."""
        return abs(self.sent_at - now) <= MAX_CLOCK_SKEW_S


@dataclass(frozen=True, slots=True)
class Exposure:
    """The provider's live view of a lease, in base units.

    `cumulative` is the highest voucher it holds, `served` the value it served, `credit_cap` how far `served` may run
    ahead; `paused` says that it waits for a voucher.
    """

    lease_id: bytes
    cumulative: int
    served: int
    credit_cap: int
    paused: bool

    def __post_init__(self) -> None:
        check_bytes32(self.lease_id, "lease_id")
        for name in ("cumulative", "served", "credit_cap"):
            check_uint(getattr(self, name), name, 128)
        if type(self.paused) is not bool:
            raise InvalidField("paused", "not a bool")

    @property
    def unpaid(self) -> int:
        """The value served beyond the vouchers."""
        return max(0, self.served - self.cumulative)


def _uint_of(text: str) -> int:
    if not _UINT.fullmatch(text):
        raise ValueError("not a decimal integer")
    return int(text)


def _bytes32_of(text: str) -> bytes:
    if not _BYTES32.fullmatch(text):
        raise ValueError("not 0x and 64 lower-case hex digits")
    return bytes.fromhex(text[2:])


def _bool_of(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text == "true"


def _address_of(text: str) -> str:
    if to_address(text) != text:
        raise ValueError("not an address in EIP-55 checksum form")
    return text


def _reader(solidity_type: str) -> Callable[[str], Any]:
    if solidity_type == "address":
        return _address_of
    if solidity_type == "bytes32":
        return _bytes32_of
    return _bool_of if solidity_type == "bool" else _uint_of


def _write(value: Scalar) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _join(pairs: Iterable[tuple[str, Scalar]]) -> str:
    return ";".join(f"{name}={_write(value)}" for name, value in pairs)


def _split(header: str, text: object, readers: list[tuple[str, Callable[[str], Any]]]) -> list[Any]:
    """The values of exactly these fields in this order."""
    if not isinstance(text, str):
        raise InvalidHeader(header, "not text")
    if len(text) > MAX_VALUE_CHARS:
        raise InvalidHeader(header, f"longer than {MAX_VALUE_CHARS} characters")
    parts = text.split(";")
    if len(parts) != len(readers):
        raise InvalidHeader(header, f"has {len(parts)} fields instead of {len(readers)}")
    values = []
    for part, (name, read) in zip(parts, readers, strict=True):
        if not part.startswith(name + "="):
            raise InvalidHeader(header, f"field {name} is not in its place")
        try:
            values.append(read(part[len(name) + 1 :]))
        except ValueError as error:
            reason = error.reason if isinstance(error, InvalidField) else error
            raise InvalidHeader(header, f"{name}: {reason}") from error
    return values


def encode_signed(message: Message, signature: Signature) -> str:
    """The fields of a message under their EIP-712 names and in the type's order, then `signature`."""
    return _join([*message.as_dict().items(), ("signature", signature.to_bytes())])


def parse_signed(message_type: type[MessageT], text: object, header: str | None = None) -> Signed[MessageT]:
    """The reverse of `encode_signed`. Raises InvalidHeader; `header` is the name that the error gives."""
    header = header or message_type.__name__
    readers = [(member.name, _reader(member.solidity_type)) for member in message_type.MEMBERS]
    *values, signature = _split(header, text, [*readers, ("signature", Signature.from_hex)])
    try:
        return Signed(message_type(*values), signature)
    except InvalidField as error:
        raise InvalidHeader(header, str(error)) from error


def parse_voucher(text: object) -> Signed[Voucher]:
    """A signed voucher from its text. Raises InvalidHeader."""
    return parse_signed(Voucher, text, VOUCHER_HEADER)


def parse_receipt(text: object) -> Signed[Receipt]:
    """A signed receipt from its text. Raises InvalidHeader."""
    return parse_signed(Receipt, text, RECEIPT_HEADER)


def parse_anchor(text: object) -> Signed[Anchor]:
    """A signed anchor from its text. Raises InvalidHeader."""
    return parse_signed(Anchor, text)


_REQUEST_READERS: list[tuple[str, Callable[[str], Any]]] = [
    ("seq", _uint_of),
    ("requestHash", _bytes32_of),
    ("maxCost", _uint_of),
    ("sentAt", _uint_of),
    ("salt", _bytes32_of),
]
_EXPOSURE_READERS: list[tuple[str, Callable[[str], Any]]] = [
    ("leaseId", _bytes32_of),
    ("cumulative", _uint_of),
    ("served", _uint_of),
    ("creditCap", _uint_of),
    ("paused", _bool_of),
]


def encode_request(request: RequestContext) -> str:
    """The text of a request's context."""
    values = (request.seq, request.request_hash, request.max_cost, request.sent_at, request.salt)
    return _join(zip((name for name, _ in _REQUEST_READERS), values, strict=True))


def parse_request(text: object) -> RequestContext:
    """The reverse of `encode_request`. Raises InvalidHeader."""
    try:
        return RequestContext(*_split(REQUEST_HEADER, text, _REQUEST_READERS))
    except InvalidField as error:
        raise InvalidHeader(REQUEST_HEADER, str(error)) from error


def encode_exposure(exposure: Exposure) -> str:
    """The text of an exposure."""
    values = (exposure.lease_id, exposure.cumulative, exposure.served, exposure.credit_cap, exposure.paused)
    return _join(zip((name for name, _ in _EXPOSURE_READERS), values, strict=True))


def parse_exposure(text: object) -> Exposure:
    """The reverse of `encode_exposure`. Raises InvalidHeader."""
    try:
        return Exposure(*_split(EXPOSURE_HEADER, text, _EXPOSURE_READERS))
    except InvalidField as error:
        raise InvalidHeader(EXPOSURE_HEADER, str(error)) from error


def encode_refusal(code: RefusalCode) -> str:
    """The text of a refusal."""
    return _join([("code", code.value)])


def parse_refusal(text: object) -> RefusalCode:
    """The reverse of `encode_refusal`. Raises InvalidHeader."""
    code: RefusalCode = _split(REFUSAL_HEADER, text, [("code", _refusal_of)])[0]
    return code


def _refusal_of(text: str) -> RefusalCode:
    try:
        return RefusalCode(text)
    except ValueError:
        raise ValueError("unknown code") from None


def _pick(headers: HeaderSource, wanted: Iterable[str]) -> dict[str, str]:
    """Our headers by their canonical names, whatever their case. Raises InvalidHeader on a repeated one."""
    canonical = {name.lower(): name for name in wanted}
    found: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        known = canonical.get(name.lower())
        if known is None:
            continue
        if known in found:
            raise InvalidHeader(known, "given twice")
        found[known] = value
    return found


def _required(found: Mapping[str, str], header: str) -> str:
    if header not in found:
        raise InvalidHeader(header, "missing")
    return found[header]


def check_version(headers: HeaderSource) -> None:
    """Raise UnsupportedVersion unless the other side speaks this version; InvalidHeader when it doesn't say."""
    _check_version(_pick(headers, [VERSION_HEADER]))


def _check_version(found: Mapping[str, str]) -> None:
    if _required(found, VERSION_HEADER) != VERSION:
        raise UnsupportedVersion(VERSION_HEADER, f"this side speaks version {VERSION}")


def request_headers(voucher: Signed[Voucher], request: RequestContext) -> dict[str, str]:
    """The headers of a paid request. Raises InvalidHeader when the voucher authorises another request."""
    _check_context(voucher.message, request)
    return {
        VERSION_HEADER: VERSION,
        VOUCHER_HEADER: voucher.encode(),
        REQUEST_HEADER: encode_request(request),
    }


def parse_request_headers(headers: HeaderSource) -> tuple[Signed[Voucher], RequestContext]:
    """The voucher and context of a paid request; the context is the one that the voucher commits to.

    Left to the caller: the signer, the request hash against the body, the clock, `seq` and the lease.
    Raises InvalidHeader.
    """
    found = _pick(headers, (VERSION_HEADER, VOUCHER_HEADER, REQUEST_HEADER))
    _check_version(found)
    voucher = parse_voucher(_required(found, VOUCHER_HEADER))
    request = parse_request(_required(found, REQUEST_HEADER))
    _check_context(voucher.message, request)
    return voucher, request


def _check_context(voucher: Voucher, request: RequestContext) -> None:
    if voucher.context != request.context:
        raise InvalidHeader(REQUEST_HEADER, "not the request that the voucher's context commits to")


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """What a provider's answer may carry."""

    receipt: Signed[Receipt] | None = None
    exposure: Exposure | None = None
    refusal: RefusalCode | None = None

    def encode(self) -> dict[str, str]:
        """The headers, with the version."""
        headers = {VERSION_HEADER: VERSION}
        if self.receipt is not None:
            headers[RECEIPT_HEADER] = self.receipt.encode()
        if self.exposure is not None:
            headers[EXPOSURE_HEADER] = encode_exposure(self.exposure)
        if self.refusal is not None:
            headers[REFUSAL_HEADER] = encode_refusal(self.refusal)
        return headers


def parse_response_headers(headers: HeaderSource) -> ResponseHeaders:
    """The headers of a provider's answer. Raises InvalidHeader."""
    found = _pick(headers, (VERSION_HEADER, RECEIPT_HEADER, EXPOSURE_HEADER, REFUSAL_HEADER))
    _check_version(found)
    receipt, exposure, refusal = (found.get(name) for name in (RECEIPT_HEADER, EXPOSURE_HEADER, REFUSAL_HEADER))
    return ResponseHeaders(
        receipt=None if receipt is None else parse_receipt(receipt),
        exposure=None if exposure is None else parse_exposure(exposure),
        refusal=None if refusal is None else parse_refusal(refusal),
    )


__all__ = [
    "EXPOSURE_HEADER",
    "MAX_CLOCK_SKEW_S",
    "MAX_VALUE_CHARS",
    "RECEIPT_HEADER",
    "REFUSAL_HEADER",
    "REQUEST_HEADER",
    "SEQ_WINDOW",
    "VERSION",
    "VERSION_HEADER",
    "VOUCHER_HEADER",
    "Exposure",
    "RefusalCode",
    "RequestContext",
    "ResponseHeaders",
    "Signed",
    "check_version",
    "encode_exposure",
    "encode_refusal",
    "encode_request",
    "encode_signed",
    "parse_anchor",
    "parse_exposure",
    "parse_receipt",
    "parse_refusal",
    "parse_request",
    "parse_request_headers",
    "parse_response_headers",
    "parse_signed",
    "parse_voucher",
    "request_headers",
]
