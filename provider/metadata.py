"""The provider's signed metadata: where it is reached, by which TLS key, with which models and policies.

The registry holds the document's digest, set by the owner; the worker serves the document inside an envelope that the
node key signed. It is made once and kept, since a document made anew has another digest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response

from protocol.chain.client import ChainClient
from protocol.documents import document_digest, open_envelope, sign_envelope
from protocol.exceptions import InvalidDocument
from protocol.signing import Signer
from protocol.typed_data import Domain
from provider import tls
from provider.config import Config
from provider.exceptions import ConfigError, Refusal
from provider.files import write_whole
from provider.offers import Offer

METADATA_FILE = "metadata.json"
VALID_S = 365 * 86_400
RENEW_S = 60 * 86_400
"""A document with fewer seconds left is worth publishing anew."""
_TIMES = ("issued_at", "expires_at")


@dataclass(frozen=True)
class Metadata:
    """A signed envelope as it is served, and its document's digest, which the registry holds."""

    text: bytes
    document: dict[str, Any]
    digest: bytes


def urls_of(config: Config) -> list[str]:
    """The addresses to publish: those configured, else the one this machine itself reaches the worker at."""
    if config.metadata.urls:
        return config.metadata.urls
    serving = config.serving
    if serving.port == 0 or not tls.is_loopback(serving.host):
        raise ConfigError(
            "the worker's public address is unknown: set urls in [metadata], e.g. "
            f'urls = ["https://example.org:{serving.port}"]'
        )
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    return [f"{'https' if tls.is_enabled(config) else 'http'}://{host}:{serving.port}"]


def describe(
    config: Config, domain: Domain, owner: str, node_key: str, offers: list[Offer], now: int
) -> dict[str, Any]:
    """The document as the configuration and the offers have it now. Raises ConfigError."""
    if not offers:
        raise ConfigError("there are no offers to publish: run `clawmarket provider init` first")
    files = tls.tls_files(config)
    if files is None and any(url.startswith("https:") for url in config.metadata.urls):
        raise ConfigError(
            "an https address is published, but the worker speaks no TLS: set enabled = true in [tls]; "
            "if a proxy speaks TLS for it, name the proxy's certificate and key there"
        )
    pin = {"tls_spki_sha256": files.pin} if files else {}
    policy = offers[0].document
    document: dict[str, Any] = {
        "schema": "clawmarket/provider/1",
        "chain_id": domain.chain_id,
        "escrow": domain.escrow,
        "owner": owner,
        "node_key": node_key,
        "issued_at": now,
        "expires_at": now + VALID_S,
        "endpoints": [{"url": url, **(pin if url.startswith("https:") else {})} for url in urls_of(config)],
        "models": [
            {
                "name": offer.model_name,
                "fingerprint": "0x" + offer.fingerprint.hex(),
                "offer_id": offer.offer_id,
                "sandbox": offer.sandbox.value,
            }
            for offer in offers
        ],
        "tier": policy["tier"],
        "region": config.metadata.region,
        "policies": {"retention": policy["retention"], "refuses": policy["content_policy"]["refuses"]},
    }
    if config.metadata.name:
        document["name"] = config.metadata.name
    return document


def load(config: Config, domain: Domain) -> Metadata | None:
    """The document that was published last, None if none was. Raises ConfigError if the file is damaged."""
    path = config.provider.data / METADATA_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"the metadata file {path} cannot be read: {error.strerror}") from error
    try:
        claimed = json.loads(text)["document"]["node_key"]
        document = open_envelope(domain, text, claimed)
    except (ValueError, KeyError, TypeError, InvalidDocument) as error:
        raise ConfigError(f"the metadata file {path} is damaged ({error}): delete it and publish anew") from error
    return Metadata(text, document, document_digest(document))


def is_current(known: Metadata, described: dict[str, Any], now: int) -> bool:
    """Whether a kept document still says what is true, and for some time yet."""
    same = {name: value for name, value in known.document.items() if name not in _TIMES}
    return known.document["expires_at"] - now > RENEW_S and same == {
        name: value for name, value in described.items() if name not in _TIMES
    }


def prepare(config: Config, client: ChainClient, domain: Domain, node: Signer, offers: list[Offer]) -> Metadata:
    """The document to publish: the kept one while it holds, else a new one, on disk already.

    Raises ConfigError when it cannot be described or written, ChainError.
    """
    owner = client.get(client.reads.owner_of(config.provider.id))
    now = client.head().timestamp
    try:
        described = describe(config, domain, owner, node.address, offers, now)
        known = load(config, domain)
        if known is not None and is_current(known, described, now):
            return known
        text = json.dumps(sign_envelope(domain, described, node), ensure_ascii=False, separators=(",", ":")).encode()
    except InvalidDocument as error:
        raise ConfigError(f"this cannot be published: {error}; correct [metadata] in the configuration") from error
    write_whole(config.provider.data / METADATA_FILE, text)
    return Metadata(text, described, document_digest(described))


def add_route(app: FastAPI, known: Metadata | None) -> None:
    """`GET /v1/provider` on the public surface: the envelope, the same bytes until the worker starts anew."""

    @app.get("/v1/provider")
    async def provider(request: Request) -> Response:
        if known is None:
            raise Refusal("not_published", "this provider has published no metadata", status=404)
        headers = {"ETag": f'"{known.digest.hex()}"', "Cache-Control": "max-age=300"}
        if headers["ETag"] in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(known.text, media_type="application/json", headers=headers)


def faults(
    config: Config, known: Metadata | None, sandboxes: Mapping[int, str], on_chain: bytes, node_key: str, now: int
) -> list[str]:
    """What consumers would stumble over; empty when all is well. `sandboxes` are what current offers promise, by id."""
    if known is None:
        if on_chain != bytes(32):
            return ["the registry holds a metadata digest, but the document is not here: publish it anew"]
        return ["nothing was published: consumers must be told the address, and cannot check the TLS key"]
    found = []
    if known.digest != on_chain:
        found.append("the registry's metadata digest is not that of the document served here")
    if known.document["node_key"] != node_key:
        found.append("the metadata document is signed by an earlier node key")
    if known.document["expires_at"] - now < RENEW_S:
        found.append("the metadata document expires soon or has expired")
    for model in known.document["models"]:
        offer_id = model["offer_id"]
        if sandboxes.get(offer_id, model["sandbox"]) != model["sandbox"]:
            found.append(f"the metadata document names another sandbox than the terms of offer {offer_id}")
    files = tls.tls_files(config)
    if files and any(files.pin != end.get("tls_spki_sha256", files.pin) for end in known.document["endpoints"]):
        found.append("the TLS key is not the one that was published")
    return found
