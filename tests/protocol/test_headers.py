"""Wire headers: one spelling for everything, strict limits, and never another error than ours."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import headers
from protocol.exceptions import InvalidField, InvalidHeader, InvalidSignature, UnsupportedVersion
from protocol.headers import Exposure, RefusalCode, RequestContext, ResponseHeaders, Signed
from protocol.signing import Signature, Signer
from protocol.typed_data import MESSAGE_TYPES, Domain, Message, OpenLease, Receipt, Voucher
from tests.protocol import strategies

DOMAIN = Domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
SIGNER = Signer(b"\x01" * 32)
REQUEST = RequestContext(seq=7, request_hash=b"\x02" * 32, max_cost=900, sent_at=1_800_000_000, salt=b"\x03" * 32)
VOUCHER = Voucher(b"\x04" * 32, 1_000, REQUEST.context)
SIGNED = Signed(VOUCHER, SIGNER.sign(DOMAIN, VOUCHER))
EXPOSURE = Exposure(b"\x04" * 32, cumulative=1_000, served=1_200, credit_cap=500, paused=False)
RECEIPT = Receipt(
    b"\x04" * 32, 7, 3, True, 900, 10, 20, 5, b"\x02" * 32, b"\x05" * 32, 80, 900, 1_800_000_001, b"\x06" * 32
)
HEADERS = headers.request_headers(SIGNED, REQUEST)

requests = st.builds(
    RequestContext,
    strategies.uints(64),
    strategies.bytes32,
    strategies.uints(128),
    strategies.uints(64),
    strategies.bytes32,
)
exposures = st.builds(
    Exposure, strategies.bytes32, strategies.uints(128), strategies.uints(128), strategies.uints(128), st.booleans()
)
PARSERS: list[Callable[[Any], Any]] = [
    headers.parse_voucher,
    headers.parse_receipt,
    headers.parse_anchor,
    headers.parse_request,
    headers.parse_exposure,
    headers.parse_refusal,
    lambda text: headers.parse_signed(OpenLease, text),
]
TEXTS = [
    SIGNED.encode(),
    headers.encode_signed(RECEIPT, SIGNED.signature),
    headers.encode_request(REQUEST),
    headers.encode_exposure(EXPOSURE),
    headers.encode_refusal(RefusalCode.UNPAID),
]
NAMES = [headers.VERSION_HEADER, headers.VOUCHER_HEADER, headers.REQUEST_HEADER, headers.EXPOSURE_HEADER]


@given(strategies.messages, strategies.signatures)
def test_signed__encoded_and_parsed(message: Message, signature: Signature) -> None:
    text = headers.encode_signed(message, signature)
    assert headers.parse_signed(type(message), text) == Signed(message, signature)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= headers.MAX_VALUE_CHARS


@given(requests, exposures, st.sampled_from(RefusalCode))
def test_others__encoded_and_parsed(request: RequestContext, exposure: Exposure, code: RefusalCode) -> None:
    assert headers.parse_request(headers.encode_request(request)) == request
    assert headers.parse_exposure(headers.encode_exposure(exposure)) == exposure
    assert headers.parse_refusal(headers.encode_refusal(code)) is code


def test_signed__recovers_and_verifies() -> None:
    parsed = headers.parse_voucher(SIGNED.encode())
    assert parsed.recover(DOMAIN) == SIGNER.address
    parsed.verify(DOMAIN, SIGNER.address)
    with pytest.raises(InvalidSignature):
        parsed.verify(Domain(1, DOMAIN.escrow), SIGNER.address)


@given(st.data())
def test_parse__one_character_changed__is_refused_or_other(data: st.DataObject) -> None:
    """No two texts mean the same: a changed text that is still accepted encodes to itself."""
    text = data.draw(st.sampled_from(TEXTS))
    at = data.draw(st.integers(0, len(text) - 1))
    insert = data.draw(st.sampled_from([string.printable[index] for index in range(100)] + ["٣", "０", "", "\x00"]))
    cut = data.draw(st.integers(0, 2))
    changed = text[:at] + insert + text[at + cut :]
    for parse, encode in (
        (headers.parse_voucher, Signed.encode),
        (headers.parse_receipt, Signed.encode),
        (headers.parse_request, headers.encode_request),
        (headers.parse_exposure, headers.encode_exposure),
        (headers.parse_refusal, headers.encode_refusal),
    ):
        try:
            parsed: Any = parse(changed)
        except InvalidHeader:
            continue
        assert encode(parsed) == changed


@given(st.one_of(st.text(max_size=300), st.binary(max_size=50), st.none(), st.integers()))
def test_parse__anything__raises_only_invalid_header(text: object) -> None:
    for parse in PARSERS:
        with pytest.raises(InvalidHeader):
            parse(text)


field_values = st.one_of(
    st.text(max_size=8),
    st.integers().map(str),
    strategies.bytes32.map(lambda value: "0x" + value.hex()),
    strategies.addresses,
    st.sampled_from(["true", "false", "1" * 500, "0x" + "ff" * 65, "-0", "00", "1_0", "²"]),
)


@given(st.sampled_from(MESSAGE_TYPES), st.data())
def test_parse_signed__right_names_any_values__raises_only_invalid_header(
    message_type: type[Message], data: st.DataObject
) -> None:
    names = [member.name for member in message_type.MEMBERS] + ["signature"]
    text = ";".join(f"{name}={data.draw(field_values)}" for name in names)
    try:
        parsed = headers.parse_signed(message_type, text)
    except InvalidHeader:
        return
    assert parsed.encode() == text


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*NAMES, headers.RECEIPT_HEADER, headers.REFUSAL_HEADER]) | st.text(max_size=20),
            st.sampled_from([*TEXTS, headers.VERSION]) | st.text(max_size=60),
        ),
        max_size=6,
    )
)
def test_parse_headers__anything__raises_only_invalid_header(pairs: list[tuple[str, str]]) -> None:
    for parse in (headers.parse_request_headers, headers.parse_response_headers, headers.check_version):
        for source in (pairs, dict(pairs)):
            try:
                parse(source)
            except InvalidHeader:
                continue


def test_request_headers__parsed_in_any_case() -> None:
    assert headers.parse_request_headers(HEADERS) == (SIGNED, REQUEST)
    assert headers.parse_request_headers({name.lower(): value for name, value in HEADERS.items()}) == (SIGNED, REQUEST)
    pairs = [("X-Other", "1"), ("x-other", "2"), *((name.upper(), value) for name, value in HEADERS.items())]
    assert headers.parse_request_headers(pairs) == (SIGNED, REQUEST)


@pytest.mark.parametrize("name", HEADERS)
def test_request_headers__missing_or_repeated__is_named(name: str) -> None:
    with pytest.raises(InvalidHeader, match="missing") as caught:
        headers.parse_request_headers({key: value for key, value in HEADERS.items() if key != name})
    assert caught.value.header == name
    with pytest.raises(InvalidHeader, match="twice") as caught:
        headers.parse_request_headers([*HEADERS.items(), (name.lower(), HEADERS[name])])
    assert caught.value.header == name


@pytest.mark.parametrize("version", ["", "0", "2", "1.0", "01", " 1", "1\n"])
def test_version__another__is_unsupported(version: str) -> None:
    for parse in (headers.parse_request_headers, headers.parse_response_headers, headers.check_version):
        with pytest.raises(UnsupportedVersion) as caught:
            parse({**HEADERS, headers.VERSION_HEADER: version})
        assert caught.value.header == headers.VERSION_HEADER
    headers.check_version(HEADERS)


@pytest.mark.parametrize("field", ["seq", "request_hash", "max_cost", "sent_at"])
def test_request_headers__context_of_another_request__is_refused(field: str) -> None:
    value: Any = getattr(REQUEST, field)
    changed: Any = value + 1 if isinstance(value, int) else b"\x09" * 32
    other = dataclasses.replace(REQUEST, **{field: changed})
    with pytest.raises(InvalidHeader, match="commits to"):
        headers.request_headers(SIGNED, other)
    with pytest.raises(InvalidHeader, match="commits to"):
        headers.parse_request_headers({**HEADERS, headers.REQUEST_HEADER: headers.encode_request(other)})


def test_response_headers__every_part_is_optional() -> None:
    receipt = Signed(RECEIPT, SIGNER.sign(DOMAIN, RECEIPT))
    for response in (
        ResponseHeaders(),
        ResponseHeaders(receipt=receipt),
        ResponseHeaders(exposure=EXPOSURE),
        ResponseHeaders(receipt, EXPOSURE, RefusalCode.OVERDRAWN),
    ):
        assert headers.parse_response_headers(response.encode()) == response
        assert response.encode()[headers.VERSION_HEADER] == "1"


def test_value__too_long__is_refused() -> None:
    for parse in PARSERS:
        with pytest.raises(InvalidHeader, match="longer than 1024 characters"):
            parse("0" * 1025)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SIGNED.encode().replace("cumulative=1000", "cumulative=01000"), "cumulative: not a decimal"),
        (SIGNED.encode().replace("cumulative=1000", "cumulative=+1000"), "cumulative: not a decimal"),
        (SIGNED.encode().replace("cumulative=1000", f"cumulative={1 << 128}"), "cumulative: out of range"),
        (SIGNED.encode().replace("cumulative=", "Cumulative="), "cumulative is not in its place"),
        (SIGNED.encode().replace("0x04", "0x4"), "leaseId: not 0x"),
        (SIGNED.encode() + ";", "5 fields instead of 4"),
        (SIGNED.encode().partition(";")[2], "3 fields instead of 4"),
        (SIGNED.encode().replace(";", "; "), "not in its place"),
        (SIGNED.encode().rpartition("0x")[0] + "0x00", "signature: "),
        (SIGNED.encode()[:-2] + "1d", "signature: v is neither"),
    ],
)
def test_voucher__second_spelling__is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidHeader, match=reason) as caught:
        headers.parse_voucher(text)
    assert caught.value.header == headers.VOUCHER_HEADER
    assert text[-40:] not in str(caught.value)


@pytest.mark.parametrize("change", [{"seq": -1}, {"max_cost": 1 << 128}, {"salt": b""}, {"sent_at": 1.0}], ids=str)
def test_request_context__unfit__is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        dataclasses.replace(REQUEST, **change)


@pytest.mark.parametrize(
    "change", [{"served": -1}, {"credit_cap": 1 << 128}, {"paused": 1}, {"lease_id": b""}], ids=str
)
def test_exposure__unfit__is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        dataclasses.replace(EXPOSURE, **change)


@pytest.mark.parametrize(("now", "timely"), [(-121, False), (-120, True), (0, True), (120, True), (121, False)])
def test_request_context__clock(now: int, timely: bool) -> None:
    assert REQUEST.is_timely(REQUEST.sent_at + now) is timely


def test_exposure__unpaid_is_never_negative() -> None:
    assert EXPOSURE.unpaid == 200
    assert dataclasses.replace(EXPOSURE, served=999).unpaid == 0


def test_refusals__have_a_client_error_or_busy() -> None:
    assert all(code.http_status in {400, 401, 402, 403, 409, 413, 503} for code in RefusalCode)
