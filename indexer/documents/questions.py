"""What is missing, made into questions: whom to ask, for what, and how to tell whether the answer is it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from indexer.documents.wanted import WantedOffer, WantedProvider
from indexer.store.shapes import Model, Row
from indexer.store.tables.documents import OfferDocument, ProviderDocument
from protocol.documents import DocumentType, document_digest, model_fingerprint, open_envelope, parse_document
from protocol.exceptions import InvalidDocument
from protocol.offer_text import MAX_OFFER_BYTES, parse_offer
from protocol.typed_data import Domain, hash_struct


@dataclass(frozen=True)
class Question:
    """`read` makes a row of `model` from an answer of at most `most_bytes`. It raises InvalidDocument."""

    address: str
    path: str
    most_bytes: int
    model: Model
    read: Callable[[bytes], Row]


def about_providers(wanted: Sequence[WantedProvider], addresses: Sequence[str], domain: Domain) -> Iterator[Question]:
    """Each address is asked who it is; whichever wanted provider it proves to be is found."""
    if not wanted:
        return
    read = partial(_provider, {each.digest: each for each in wanted}, domain)
    listed = (address for each in wanted for address in each.endpoints)
    for address in dict.fromkeys((*addresses, *listed)):
        yield Question(address, "/v1/provider", DocumentType.ENVELOPE.max_text_bytes, ProviderDocument, read)


def about_offers(wanted: Sequence[WantedOffer]) -> Iterator[Question]:
    """At every address of its provider."""
    for each in wanted:
        for address in each.endpoints:
            path = f"/v1/offers/{each.offer_id}/{each.version}"
            yield Question(address, path, MAX_OFFER_BYTES, OfferDocument, partial(_offer, each.digest))


def _provider(wanted: dict[bytes, WantedProvider], domain: Domain, text: bytes) -> Row:
    envelope = parse_document(DocumentType.ENVELOPE, text)
    found = wanted.get(document_digest(envelope["document"]))
    if found is None:
        raise InvalidDocument("it shows metadata that the registry does not have")
    document = open_envelope(domain, text, found.node_key, found.digest)
    return {
        "digest": found.digest,
        "provider": found.provider,
        "node_key": bytes.fromhex(found.node_key[2:]),
        **{name: document[name] for name in ("issued_at", "expires_at", "tier", "region")},
        "name": document.get("name"),
        "envelope": _compact(envelope),
        "fetched_at": int(time.time()),
    }


def _offer(digest: bytes, text: bytes) -> Row:
    terms, document = parse_offer(text)
    if hash_struct(terms) != digest:
        raise InvalidDocument("it shows terms that are not those of the registry")
    same = ("price_in", "price_out", "price_cached", "unit_scale", "period")
    sla = ("sla_ttft_ms", "sla_milli_tokens_per_s", "sla_credit_bps")
    return {
        "terms_digest": digest,
        "kind": terms.offer_kind,
        "token": bytes.fromhex(terms.token[2:]),
        "model": document["model"]["name"] if "model" in document else None,
        "fingerprint": model_fingerprint(document) if "model" in document else None,
        **{name: getattr(terms, name) for name in (*same, *sla)},
        "tier": document["tier"],
        "region": document["region"],
        "document": _compact(document),
        "fetched_at": int(time.time()),
    }


def _compact(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"))
