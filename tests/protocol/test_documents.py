"""Terms, metadata and envelopes: schemas, rules, digests, signatures and hostile input."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from protocol.canonical import canonical_bytes
from protocol.documents import (
    DocumentType,
    check_document,
    check_terms_document,
    document_digest,
    model_fingerprint,
    open_envelope,
    parse_by_digest,
    parse_document,
    schema,
    sign_envelope,
    terms_digest,
)
from protocol.exceptions import InvalidDocument
from protocol.hashing import keccak
from protocol.sandboxes import SandboxTier
from protocol.signing import Signer
from protocol.typed_data import Domain, Voucher, hash_struct
from tests.protocol.make_vectors import DOMAINS, NODE, OWNER, PROVIDER_DOCUMENT, SEARCH_DOCUMENT, TERMS, TERMS_DOCUMENT
from tests.protocol.test_canonical import values

DOMAIN = DOMAINS[0]
GOOD = [
    (DocumentType.TERMS, TERMS_DOCUMENT),
    (DocumentType.TERMS, SEARCH_DOCUMENT),
    (DocumentType.PROVIDER, PROVIDER_DOCUMENT),
]
REMOVED = object()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*path, key))


def changed(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    result = copy.deepcopy(document)
    holder: Any = result
    for key in path[:-1]:
        holder = holder[key]
    if value is REMOVED:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return result


EVERY_PLACE = pytest.mark.parametrize(
    ("document_type", "document", "path"),
    [
        pytest.param(kind, document, path, id=f"{document['schema'].split('/')[1]}-{'.'.join(map(str, path))}")
        for kind, document in (GOOD[0], GOOD[2])
        for path in paths(document)
    ],
)


@pytest.mark.parametrize("document_type", DocumentType)
def test_schema__is_draft_2020_12_and_closed(document_type: DocumentType) -> None:
    Draft202012Validator.check_schema(schema(document_type))
    assert schema(document_type)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema(document_type)["additionalProperties"] is False


@pytest.mark.parametrize(("document_type", "document"), GOOD)
def test_document__good__keeps_its_digest_in_any_layout(document_type: DocumentType, document: dict[str, Any]) -> None:
    digest = document_digest(document)
    assert check_document(document_type, document) == canonical_bytes(document)
    assert digest == keccak(canonical_bytes(document))
    for indent, escaped in ((None, True), (2, False)):
        text = json.dumps(document, indent=indent, ensure_ascii=escaped, sort_keys=escaped)
        assert parse_by_digest(document_type, text, digest) == document
        with pytest.raises(InvalidDocument, match="digest"):
            parse_by_digest(document_type, text, bytes(32))


@EVERY_PLACE
def test_document__every_place_wrong__is_refused(
    document_type: DocumentType, document: dict[str, Any], path: tuple[Any, ...]
) -> None:
    secret = "do not repeat\n"
    for wrong in (secret, -1, 1.5, {secret: 1}, [None], "", "x" * 2_000):
        with pytest.raises(InvalidDocument) as caught:
            check_document(document_type, changed(document, path, wrong))
        assert secret not in str(caught.value)
        assert len(str(caught.value)) < 400


@EVERY_PLACE
def test_document__every_place__is_in_the_digest(
    document_type: DocumentType, document: dict[str, Any], path: tuple[Any, ...]
) -> None:
    assert document_digest(changed(document, path, REMOVED)) != document_digest(document)
    assert document_digest(changed(document, path, None)) != document_digest(document)


@pytest.mark.parametrize(("document_type", "document"), GOOD)
def test_document__unknown_member_anywhere__is_refused(document_type: DocumentType, document: dict[str, Any]) -> None:
    holders = [path for path in paths({"": document}) if isinstance(_at({"": document}, path), dict)]
    for path in holders:
        spoiled = changed({"": document}, (*path, "extra"), 1)[""]
        with pytest.raises(InvalidDocument, match="additionalProperties"):
            check_document(document_type, spoiled)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tier",), "shared\n"),
        (("sandbox",), REMOVED),
        (("sandbox",), "shared"),
        (("sandbox",), "GVISOR-SYSTRAP"),
        (("sandbox",), "gvisor-systrap\n"),
        (("sandbox",), ["gvisor-systrap"]),
        (("region",), "DE\n"),
        (("region",), "de"),
        (("kind",), "Inference"),
        (("kind",), "search"),
        (("model",), REMOVED),
        (("model", "name"), "smollm2\n"),
        (("model", "gguf_sha256"), "A3" * 32),
        (("model", "gguf_sha256"), "a3" * 32 + "\n"),
        (("model", "context_length"), 0),
        (("model", "context_length"), True),
        (("model", "engine"), {"name": "llama.cpp"}),
        (("caps", "max_concurrent"), 0),
        (("content_policy", "refuses"), ["csam", "csam"]),
        (("content_policy", "refuses"), [f"tag-{number}" for number in range(33)]),
        (("schema",), "clawmarket/terms/2"),
        (("title",), "two\nlines"),
    ],
)
def test_terms__hostile_value__is_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(InvalidDocument):
        check_document(DocumentType.TERMS, changed(TERMS_DOCUMENT, path, value))


@pytest.mark.parametrize("tier", SandboxTier)
def test_sandbox__every_known_name_is_accepted(tier: SandboxTier) -> None:
    check_document(DocumentType.TERMS, changed(TERMS_DOCUMENT, ("sandbox",), tier.value))
    check_document(DocumentType.PROVIDER, changed(PROVIDER_DOCUMENT, ("models", 0, "sandbox"), tier.value))


def test_terms__model_without_a_chat_template__is_accepted() -> None:
    check_document(DocumentType.TERMS, changed(TERMS_DOCUMENT, ("model", "chat_template_sha256"), None))


def test_terms__kind_without_a_model__must_have_none() -> None:
    with pytest.raises(InvalidDocument, match=r"\$\.model"):
        check_document(DocumentType.TERMS, {**SEARCH_DOCUMENT, "model": TERMS_DOCUMENT["model"]})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("endpoints",), []),
        (("endpoints", 0, "tls_spki_sha256"), REMOVED),
        (("endpoints", 0, "url"), "http://gpu.example:8443"),
        (("endpoints", 0, "url"), "https://user:password@gpu.example"),
        (("endpoints", 0, "url"), "https://user@gpu.example"),
        (("endpoints", 0, "url"), "https://gpu.example/?token=1"),
        (("endpoints", 0, "url"), "https://gpu.example/#x"),
        (("endpoints", 0, "url"), "https://gpu.example:99999"),
        (("endpoints", 0, "url"), "https://gpu.example:port"),
        (("endpoints", 0, "url"), "https://gpu.example:0"),
        (("endpoints", 0, "url"), "https://[::1"),
        (("endpoints", 0, "url"), "https://:443"),
        (("endpoints", 0, "url"), "javascript:alert(1)"),
        (("endpoints", 0, "url"), "file:///etc/passwd"),
        (("endpoints", 0, "url"), "https://gpu.example\n"),
        (("endpoints", 0, "url"), "https://gpu.example/a b"),
        (("endpoints", 0, "url"), "https://127.0.0.1.evil\\@x"),
        (("owner",), OWNER.address.lower()),
        (("node_key",), "0x" + "0" * 39 + "g"),
        (("escrow",), DOMAIN.escrow.swapcase().replace("X", "x")),
        (("expires_at",), PROVIDER_DOCUMENT["issued_at"]),
        (("chain_id",), 0),
        (("chain_id",), "31337"),
        (("peer", "id"), "0OIl" * 10),
        (("models", 0, "offer_id"), 1 << 32),
        (("models", 0, "sandbox"), REMOVED),
        (("models", 0, "sandbox"), "firecracker"),
        (("models", 0, "sandbox"), "none\n"),
        (("name",), "a\u0000b"),
    ],
)
def test_provider__hostile_value__is_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(InvalidDocument):
        check_document(DocumentType.PROVIDER, changed(PROVIDER_DOCUMENT, path, value))


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://[::1]:8080/v1", "http://localhost"])
def test_provider__loopback__needs_no_encryption(url: str) -> None:
    check_document(DocumentType.PROVIDER, changed(PROVIDER_DOCUMENT, ("endpoints",), [{"url": url}]))


@pytest.mark.parametrize("document_type", DocumentType)
def test_parse_document__too_long__is_refused_before_reading(document_type: DocumentType) -> None:
    with pytest.raises(InvalidDocument, match="longer"):
        parse_document(document_type, b"[" * (document_type.max_text_bytes + 1))


def test_document__too_large_in_canonical_form__is_refused() -> None:
    addresses = [f"/dns4/{number:0>240}/tcp/1" for number in range(32)]
    models = [{**PROVIDER_DOCUMENT["models"][0], "name": "m" * 64, "offer_id": 4_294_967_295}] * 128
    large = changed(changed(PROVIDER_DOCUMENT, ("peer", "addresses"), addresses), ("models",), models)
    check_document(DocumentType.PROVIDER, large)
    with pytest.raises(InvalidDocument, match="longer than 16384 bytes"):
        check_document(DocumentType.TERMS, changed(TERMS_DOCUMENT, ("title",), "x" * 20_000))


@settings(max_examples=60)
@given(st.sampled_from(list(DocumentType)), values)
def test_parse_document__any_json__raises_only_our_error(document_type: DocumentType, value: Any) -> None:
    with pytest.raises(InvalidDocument):
        parse_document(document_type, canonical_bytes(value))


@given(st.data(), values)
def test_check_document__any_value_anywhere__raises_only_our_error(data: st.DataObject, value: Any) -> None:
    document_type, document = data.draw(st.sampled_from(GOOD))
    path = data.draw(st.sampled_from(list(paths(document))))
    try:
        check_document(document_type, changed(document, path, value))
    except InvalidDocument:
        return
    assert value is None or isinstance(value, str | int | list)


def test_model_fingerprint__is_the_model_part_only() -> None:
    fingerprint = model_fingerprint(TERMS_DOCUMENT)
    assert fingerprint == document_digest(TERMS_DOCUMENT["model"])
    assert model_fingerprint({**TERMS_DOCUMENT, "region": "FR"}) == fingerprint
    for path in paths(TERMS_DOCUMENT["model"]):
        other = changed(TERMS_DOCUMENT, ("model", *path), "other")
        assert model_fingerprint(other) != fingerprint
    assert model_fingerprint(SEARCH_DOCUMENT) == bytes(32)


def test_check_terms_document__another_document_or_kind__is_refused() -> None:
    assert terms_digest(TERMS) == hash_struct(TERMS)
    check_terms_document(TERMS, TERMS_DOCUMENT)
    with pytest.raises(InvalidDocument, match="not the document"):
        check_terms_document(TERMS, {**TERMS_DOCUMENT, "region": "FR"})
    with pytest.raises(InvalidDocument, match="another kind"):
        check_terms_document(dataclasses.replace(TERMS, offer_kind=1), TERMS_DOCUMENT)


ENVELOPE = sign_envelope(DOMAIN, PROVIDER_DOCUMENT, NODE)


def test_envelope__signed_and_opened() -> None:
    digest = document_digest(PROVIDER_DOCUMENT)
    for text in (json.dumps(ENVELOPE), json.dumps(ENVELOPE, indent=2).encode()):
        assert open_envelope(DOMAIN, text, NODE.address) == PROVIDER_DOCUMENT
        assert open_envelope(DOMAIN, text, NODE.address, digest) == PROVIDER_DOCUMENT
    with pytest.raises(InvalidDocument, match="digest"):
        open_envelope(DOMAIN, json.dumps(ENVELOPE), NODE.address, bytes(32))


@pytest.mark.parametrize(
    "path", [path for path in paths(PROVIDER_DOCUMENT) if isinstance(_at(PROVIDER_DOCUMENT, path), str | int)], ids=str
)
def test_envelope__any_value_tampered_with__is_refused(path: tuple[Any, ...]) -> None:
    value = _at(PROVIDER_DOCUMENT, path)
    other = value + 1 if isinstance(value, int) else value[:-1] + ("a" if value[-1] != "a" else "b")
    envelope = {**ENVELOPE, "document": changed(PROVIDER_DOCUMENT, path, other)}
    with pytest.raises(InvalidDocument):
        open_envelope(DOMAIN, json.dumps(envelope), NODE.address)


def test_envelope__by_another_key_chain_or_escrow__is_refused() -> None:
    stranger = Signer(b"\x07" * 32)
    with pytest.raises(InvalidDocument, match="another node key"):
        sign_envelope(DOMAIN, PROVIDER_DOCUMENT, stranger)
    with pytest.raises(InvalidDocument, match="another node key"):
        open_envelope(DOMAIN, json.dumps(ENVELOPE), stranger.address)
    forged = sign_envelope(DOMAIN, {**PROVIDER_DOCUMENT, "node_key": stranger.address}, stranger)
    with pytest.raises(InvalidDocument, match="is signed by"):
        open_envelope(DOMAIN, json.dumps({**ENVELOPE, "signature": forged["signature"]}), NODE.address)
    for domain in (Domain(1, DOMAIN.escrow), Domain(31337, OWNER.address)):
        with pytest.raises(InvalidDocument, match="another deployment"):
            open_envelope(domain, json.dumps(ENVELOPE), NODE.address)
        with pytest.raises(InvalidDocument, match="another deployment"):
            sign_envelope(domain, PROVIDER_DOCUMENT, NODE)


@pytest.mark.parametrize("signature", ["", "0x", "0x" + "00" * 65, "0x" + "ff" * 65, ENVELOPE["signature"].upper(), 1])
def test_envelope__malformed_signature__is_refused(signature: Any) -> None:
    with pytest.raises(InvalidDocument):
        open_envelope(DOMAIN, json.dumps({**ENVELOPE, "signature": signature}), NODE.address)


def test_envelope__voucher_signature__does_not_count() -> None:
    voucher = NODE.sign(DOMAIN, Voucher(document_digest(PROVIDER_DOCUMENT), 0))
    with pytest.raises(InvalidDocument, match="is signed by"):
        open_envelope(DOMAIN, json.dumps({**ENVELOPE, "signature": voucher.to_hex()}), NODE.address)
