"""Where a provider is reached: its signed metadata, believed as far as the registry's digest confirms it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from consumer.exceptions import OfferMismatch, ProviderFailed
from consumer.tls import unchecked_context
from protocol.chain.client import ChainClient
from protocol.documents import DocumentType, open_envelope
from protocol.exceptions import InvalidDocument
from protocol.hashing import ZERO_BYTES32
from protocol.typed_data import Domain

TIMEOUT_S = 20.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Endpoint:
    """An address, and the SHA-256 of its TLS key in hex; without one the system's authorities vouch for it."""

    url: str
    tls_pin: str = ""


def find_endpoint(client: ChainClient, domain: Domain, provider: int, url: str) -> Endpoint:
    """The address as the provider's metadata has it.

    A provider that published none is reached over http on this machine, or over https by the system's authorities.
    Raises OfferMismatch when the metadata is not the registry's, not the node key's, expired, or has other addresses;
    ProviderFailed when it cannot be fetched; ChainError.
    """
    reads = client.reads
    digest, node_key = client.read([reads.metadata_digest(provider), reads.node_key(provider)])
    url = url.rstrip("/")
    if digest == ZERO_BYTES32:
        if urlsplit(url).scheme != "https" and urlsplit(url).hostname not in _LOOPBACK:
            raise OfferMismatch(f"provider {provider} published no TLS key, and {url} is unencrypted: ask it for https")
        return Endpoint(url)
    text = _fetch(f"{url}/v1/provider")
    try:
        document = open_envelope(domain, text, node_key, digest)
    except InvalidDocument as error:
        raise OfferMismatch(
            f"{url} shows other metadata than the registry has of provider {provider}: {error}"
        ) from error
    if document["expires_at"] <= client.head().timestamp:
        raise OfferMismatch(f"the metadata of provider {provider} has expired: it must publish again")
    for endpoint in document["endpoints"]:
        if endpoint["url"].rstrip("/") == url:
            return Endpoint(url, endpoint.get("tls_spki_sha256", ""))
    listed = ", ".join(endpoint["url"] for endpoint in document["endpoints"])
    raise OfferMismatch(f"provider {provider} does not list {url}: use {listed}")


def _fetch(url: str) -> bytes:
    """The document proves itself by the registry's digest, so any server may give it."""
    received = bytearray()
    try:
        with (
            httpx.Client(verify=unchecked_context(), timeout=TIMEOUT_S, trust_env=False) as http,
            http.stream("GET", url) as response,
        ):
            response.raise_for_status()
            for chunk in response.iter_bytes(16 * 1024):
                received += chunk
                if len(received) > DocumentType.ENVELOPE.max_text_bytes:
                    raise ProviderFailed(f"{url} sends more than a metadata document can have")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ProviderFailed(f"no metadata from {url} ({error}): check the address, or try later") from error
    return bytes(received)
