"""The offers a worker serves: for every (offer id, version) ever published its Terms and terms document, kept as files.

A lease carries only the digest of its terms; the contract checked it against the offer's version when the lease was
opened, so (offer id, version) names the terms a lease was opened under.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.documents import DocumentType, check_document, check_terms_document, document_digest, model_fingerprint
from protocol.exceptions import ProtocolError
from protocol.ids import OfferKind
from protocol.offer_text import terms_from_json, terms_to_json
from protocol.sandboxes import SandboxTier
from protocol.typed_data import Terms, hash_struct
from provider.exceptions import ConfigError


@dataclass(frozen=True)
class Offer:
    """One version of one offer."""

    offer_id: int
    version: int
    terms: Terms
    document: dict[str, Any]

    @property
    def digest(self) -> bytes:
        """What the registry and leases carry."""
        return hash_struct(self.terms)

    @property
    def model_name(self) -> str:
        """The name clients ask for."""
        return str(self.document["model"]["name"])

    @property
    def sandbox(self) -> SandboxTier:
        """What its terms promise."""
        return SandboxTier(self.document["sandbox"])

    @property
    def fingerprint(self) -> bytes:
        """The model fingerprint that receipts carry."""
        return model_fingerprint(self.document)

    def to_json(self) -> str:
        """The file's text."""
        terms = terms_to_json(self.terms)
        content = {"offer_id": self.offer_id, "version": self.version, "terms": terms, "document": self.document}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def make_document(
    model: dict[str, Any],
    *,
    max_units_in: int,
    max_units_out: int,
    max_concurrent: int,
    sandbox: SandboxTier,
    kind: OfferKind = OfferKind.INFERENCE,
) -> dict[str, Any]:
    """A terms document for inference or embedding with this model card, answered from `sandbox`."""
    document = {
        "schema": "clawmarket/terms/1",
        "kind": kind.label,
        "model": model,
        "tier": "shared",
        "sandbox": sandbox.value,
        "region": "ZZ",
        "caps": {
            "max_units_in": max_units_in,
            "max_units_out": max_units_out,
            "max_concurrent": max_concurrent,
            "requests_per_minute": 600,
            "max_body_bytes": 1024 * 1024,
        },
        "retention": {"input_s": 0, "output_s": 0, "log_s": 0},
        "content_policy": {"refuses": []},
    }
    check_document(DocumentType.TERMS, document)
    return document


def make_terms(
    document: dict[str, Any],
    *,
    token: str,
    price_in: int,
    price_out: int,
    price_cached: int,
    unit_scale: int,
    sla_ttft_ms: int = 0,
    sla_milli_tokens_per_s: int = 0,
    sla_credit_bps: int = 0,
) -> Terms:
    """Terms of an offer of the document's kind; prices in base units of `token` per `unit_scale` tokens."""
    return Terms(
        offer_kind=int(OfferKind.from_label(document["kind"])),
        token=token,
        price_in=price_in,
        price_out=price_out,
        price_cached=price_cached,
        unit_scale=unit_scale,
        sla_ttft_ms=sla_ttft_ms,
        sla_milli_tokens_per_s=sla_milli_tokens_per_s,
        sla_credit_bps=sla_credit_bps,
        period=0,
        doc_hash=document_digest(document),
    )


class OfferBook:
    """All offers in a folder."""

    def __init__(self, folder: Path) -> None:
        """Reads the folder. Raises ConfigError naming a file that cannot be used."""
        self._folder = folder
        self._offers: dict[tuple[int, int], Offer] = {}
        for path in sorted(folder.glob("*.json")):
            offer = _read(path)
            self._offers[offer.offer_id, offer.version] = offer

    def find(self, offer_id: int, version: int) -> Offer | None:
        """The offer as it was in that version."""
        return self._offers.get((offer_id, version))

    def all(self) -> list[Offer]:
        """Every version of every offer."""
        return list(self._offers.values())

    def current(self) -> list[Offer]:
        """The latest version of each offer."""
        latest = {offer.offer_id: offer for offer in sorted(self._offers.values(), key=lambda offer: offer.version)}
        return list(latest.values())

    def add(self, offer: Offer) -> Path:
        """Keeps a published offer."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{offer.offer_id}-{offer.version}.json"
        path.write_text(offer.to_json(), encoding="utf-8")
        self._offers[offer.offer_id, offer.version] = offer
        return path


def _read(path: Path) -> Offer:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        terms = terms_from_json(content["terms"])
        offer = Offer(int(content["offer_id"]), int(content["version"]), terms, content["document"])
        check_document(DocumentType.TERMS, offer.document)
        check_terms_document(offer.terms, offer.document)
    except (OSError, KeyError, TypeError, ValueError, ProtocolError) as error:
        raise ConfigError(f"offer file {path} cannot be used: {error}") from error
    return offer
