"""Addresses of providers that nobody configured: indexers list them, the chain confirms what is behind them.

An indexer is not trusted: one that lies leaves providers out, or names addresses where nothing is found that the
registry confirms. Of several the union counts, so that all of them must leave out a provider to hide it.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from consumer.exceptions import ConsumerError, ProviderFailed
from consumer.routing.fetching import fetch
from protocol.documents import DocumentType, check_document, parse_document
from protocol.exceptions import ProtocolError
from protocol.public_address import is_public

MAX_PROVIDERS = 256
"""Of one indexer: those with the most stake."""
_MAX_PAGES = 50
_ROWS, _MAX_PAGE_BYTES = 200, 1024 * 1024
_DOCUMENTS, _MAX_DOCUMENTS_BYTES = 20, 4 * 1024 * 1024

_log = logging.getLogger(__name__)


class IndexedAddresses:
    """What `indexers` list. Unless `may_be_private`, addresses are https and lie in the public network."""

    def __init__(self, indexers: Sequence[str], *, may_be_private: bool) -> None:
        self._indexers = [url.rstrip("/") for url in indexers]
        self._may_be_private = may_be_private
        self._listed: dict[str, list[str]] = {}
        self._away: dict[str, str] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every indexer answered the last time."""
        return not self._away

    async def urls(self) -> list[str]:
        """The addresses, without duplicates; of an indexer that is away those it listed before."""
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as http:
            await asyncio.gather(*(self._refresh(http, indexer) for indexer in self._indexers))
        return list(dict.fromkeys(url for indexer in self._indexers for url in self._listed.get(indexer, ())))

    async def _refresh(self, http: httpx.AsyncClient, indexer: str) -> None:
        try:
            self._listed[indexer] = await self._of(http, indexer)
            self._away.pop(indexer, None)
        except ConsumerError as error:
            if self._away.get(indexer) != str(error):
                _log.warning("indexer %s lists nothing now: %s", indexer, error)
            self._away[indexer] = str(error)

    async def _of(self, http: httpx.AsyncClient, indexer: str) -> list[str]:
        """Raises ProviderFailed."""
        try:
            offering = {row["provider"] for row in await _rows(http, indexer, "offers", is_open="true")}
            stakes = {row["account"]: int(row["active"]) for row in await _rows(http, indexer, "stakes", active_min=1)}
            documents = [
                _document(row["envelope"])
                for row in await _rows(http, indexer, "provider_documents")
                if row["provider"] in offering
            ]
        except (KeyError, TypeError, ValueError, RecursionError, ProtocolError) as error:
            raise ProviderFailed(f"{indexer} sends what no indexer sends ({type(error).__name__})") from error
        documents.sort(key=lambda document: stakes.get(document["owner"], 0), reverse=True)
        urls = [endpoint["url"].rstrip("/") for each in documents[:MAX_PROVIDERS] for endpoint in each["endpoints"]]
        usable = await asyncio.gather(*(self._is_usable(url) for url in urls))
        return [url for url, is_usable in zip(urls, usable, strict=True) if is_usable]

    async def _is_usable(self, url: str) -> bool:
        """Whether asking there cannot reach into this machine's own network."""
        parts = urlsplit(url)
        if self._may_be_private:
            return True
        if parts.scheme != "https" or parts.hostname is None:
            return False
        try:
            found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 443)
        except (OSError, UnicodeError, ValueError):
            return False
        return bool(found) and all(is_public(str(place[0])) for _, _, _, _, place in found)


async def _rows(http: httpx.AsyncClient, indexer: str, resource: str, **filters: str | int) -> list[dict[str, Any]]:
    """All rows, page by page. Raises ProviderFailed, ValueError and its like."""
    of_documents = resource == "provider_documents"
    limit, most = (_DOCUMENTS, _MAX_DOCUMENTS_BYTES) if of_documents else (_ROWS, _MAX_PAGE_BYTES)
    rows: list[dict[str, Any]] = []
    parameters = {**filters, "limit": limit}
    for _ in range(_MAX_PAGES):
        page = json.loads(await fetch(http, f"{indexer}/v1/{resource}?{urlencode(parameters)}", most))
        rows += page["data"]
        if page["next"] is None:
            break
        parameters["after"] = str(page["next"])
    return rows


def _document(envelope: str) -> dict[str, Any]:
    """Raises InvalidDocument; whether its signature counts shows at the address, against the registry."""
    document: dict[str, Any] = parse_document(DocumentType.ENVELOPE, envelope.encode())["document"]
    check_document(DocumentType.PROVIDER, document)
    return document
