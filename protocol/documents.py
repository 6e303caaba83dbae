"""The documents that are found by digest: an offer's terms, a provider's metadata, and the signed envelope.

A digest is keccak-256 of the canonical bytes (`protocol.canonical`). Documents hold no secrets: both go to anyone who
asks. Each has a JSON schema (draft 2020-12) in `protocol/schemas/` and a size limit on its canonical bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend

from protocol.address import to_address
from protocol.canonical import canonical_bytes, parse_json
from protocol.exceptions import InvalidDocument, InvalidField, InvalidSignature
from protocol.hashing import ZERO_BYTES32, keccak
from protocol.ids import OfferKind
from protocol.signing import Signature, Signer, verify
from protocol.typed_data import Document, Domain, Terms, hash_struct

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_MODEL_KINDS = frozenset({OfferKind.INFERENCE.label, OfferKind.EMBEDDING.label})


class DocumentType(Enum):
    """A kind of document: the file name of its schema, and the most bytes its canonical form may have."""

    TERMS = ("terms", 16 * 1024)
    PROVIDER = ("provider", 64 * 1024)
    ENVELOPE = ("envelope", 65 * 1024)
    MODELS = ("models", 1024 * 1024)

    def __init__(self, schema_name: str, max_bytes: int) -> None:
        self.schema_name = schema_name
        self.max_bytes = max_bytes

    @property
    def max_text_bytes(self) -> int:
        """The most bytes a text of such a document may have before it is read: room for indentation."""
        return 2 * self.max_bytes


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    """The `pattern` keyword with ECMA-262's `$`, as the standard has it: Python's would let a final line feed pass."""
    if isinstance(instance, str) and not re.search(re.sub(r"\$\Z", r"\\Z", pattern), instance):
        yield ValidationError("does not match")


_Validator = extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]


@cache
def schema(document_type: DocumentType) -> dict[str, Any]:
    """The JSON schema of a type of document."""
    path = files("protocol") / "schemas" / f"{document_type.schema_name}.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@cache
def _validator(document_type: DocumentType) -> Any:
    Draft202012Validator.check_schema(schema(document_type))
    return _Validator(schema(document_type))


def check_document(document_type: DocumentType, document: Any) -> bytes:
    """Check a document against its schema, size limit and rules; returns its canonical bytes.

    Raises InvalidDocument, which names the place of the first fault and never repeats a value of the document.
    """
    text = canonical_bytes(document)
    if len(text) > document_type.max_bytes:
        raise InvalidDocument(f"{document_type.schema_name}: longer than {document_type.max_bytes} bytes")
    fault = best_match(_validator(document_type).iter_errors(document))
    if fault is not None:
        raise InvalidDocument(
            f"{document_type.schema_name}: {fault.json_path[:200]} breaks the rule {fault.validator!r}"
        )
    if document_type is DocumentType.TERMS:
        _check_terms(document)
    elif document_type is DocumentType.PROVIDER:
        _check_provider(document)
    return text


def parse_document(document_type: DocumentType, text: bytes | str) -> dict[str, Any]:
    """Read and check a document from hostile text. Raises InvalidDocument."""
    document = parse_json(text, document_type.max_text_bytes)
    check_document(document_type, document)
    checked: dict[str, Any] = document
    return checked


def document_digest(document: Any) -> bytes:
    """keccak-256 of the canonical bytes: 32 bytes. Raises InvalidDocument for what is outside restricted JSON."""
    return keccak(canonical_bytes(document))


def parse_by_digest(document_type: DocumentType, text: bytes | str, digest: bytes) -> dict[str, Any]:
    """Read a document that was asked for by digest. Raises InvalidDocument also when it is another one."""
    document = parse_document(document_type, text)
    if document_digest(document) != digest:
        raise InvalidDocument(f"{document_type.schema_name}: not the document of this digest")
    return document


def model_fingerprint(document: dict[str, Any]) -> bytes:
    """What a receipt's `modelFingerprint` is: the digest of the `model` part of a checked terms document.

    Zero for kinds of offer without a model.
    """
    if "model" not in document:
        return ZERO_BYTES32
    return document_digest(document["model"])


def terms_digest(terms: Terms) -> bytes:
    """hashStruct of the numeric terms; leases and offers carry it."""
    return hash_struct(terms)


def check_terms_document(terms: Terms, document: dict[str, Any]) -> None:
    """Raise InvalidDocument unless the checked `document` is the one that `terms` name, and of their kind."""
    if document_digest(document) != terms.doc_hash:
        raise InvalidDocument("terms: not the document that the terms name")
    if OfferKind(terms.offer_kind).label != document["kind"]:
        raise InvalidDocument("terms: the document is for another kind of offer")


def _check_terms(document: dict[str, Any]) -> None:
    if (document["kind"] in _MODEL_KINDS) != ("model" in document):
        raise InvalidDocument("terms: $.model belongs to inference and embedding, and only to them")


def _check_provider(document: dict[str, Any]) -> None:
    for name in ("owner", "node_key", "escrow"):
        try:
            to_address(document[name], name)
        except InvalidField as error:
            raise InvalidDocument(f"provider: $.{error}") from error
        if to_address(document[name]) != document[name]:
            raise InvalidDocument(f"provider: $.{name}: not in EIP-55 checksum form")
    if document["expires_at"] <= document["issued_at"]:
        raise InvalidDocument("provider: $.expires_at is not after $.issued_at")
    for at, endpoint in enumerate(document["endpoints"]):
        _check_endpoint(f"$.endpoints[{at}]", endpoint)


def _check_endpoint(place: str, endpoint: dict[str, Any]) -> None:
    """What the schema's pattern cannot say; it already excludes credentials, queries and fragments."""
    try:
        parts = urlsplit(endpoint["url"])
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidDocument(f"provider: {place}.url is no address") from error
    if not host or port == 0:
        raise InvalidDocument(f"provider: {place}.url needs a host, and no port 0")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise InvalidDocument(f"provider: {place}.url is unencrypted: only loopback addresses may be")
    if parts.scheme == "https" and "tls_spki_sha256" not in endpoint:
        raise InvalidDocument(f"provider: {place} is without the TLS key pin")


def sign_envelope(domain: Domain, document: dict[str, Any], signer: Signer) -> dict[str, Any]:
    """Wrap a provider's metadata document with the node key's signature over its digest.

    Raises InvalidDocument when the document is not fit, or names another node key, chain or escrow.
    """
    check_document(DocumentType.PROVIDER, document)
    _check_binding(domain, document, signer.address)
    signature = signer.sign(domain, Document(document_digest(document)))
    return {"schema": "clawmarket/envelope/1", "document": document, "signature": signature.to_hex()}


def open_envelope(domain: Domain, text: bytes | str, node_key: str, digest: bytes | None = None) -> dict[str, Any]:
    """The metadata document inside a signed envelope, checked in full.

    `node_key` is the provider's current node key, and `digest` the one the registry holds, where that is to be met.
    Raises InvalidDocument on any fault, a wrong signature, another node key, chain, escrow or digest. Whether the
    document has expired is for the caller to say.
    """
    envelope = parse_document(DocumentType.ENVELOPE, text)
    document: dict[str, Any] = envelope["document"]
    check_document(DocumentType.PROVIDER, document)
    _check_binding(domain, document, node_key)
    found = document_digest(document)
    if digest is not None and found != digest:
        raise InvalidDocument("provider: not the document of this digest")
    try:
        verify(domain, Document(found), Signature.from_hex(envelope["signature"]), node_key)
    except InvalidSignature as error:
        raise InvalidDocument(f"envelope: {error}") from error
    return document


def _check_binding(domain: Domain, document: dict[str, Any], node_key: str) -> None:
    if document["node_key"] != node_key:
        raise InvalidDocument("provider: $.node_key is another node key")
    if document["chain_id"] != domain.chain_id or document["escrow"] != domain.escrow:
        raise InvalidDocument("provider: the document is for another deployment")
