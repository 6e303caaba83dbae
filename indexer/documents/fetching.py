"""Reading from addresses that strangers wrote down: bounded in size and time, and never from inside the own network.

The name is resolved here and the connection goes to the address that was looked at, so that a name that changes its
answer in between gains nothing. Redirects are not followed, nothing is unpacked. TLS hides what is asked, and proves
nothing: a document proves itself by its digest.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from indexer.exceptions import NotFetched
from protocol.public_address import is_public

TIMEOUT_S = 10.0
MAX_HEADER_BYTES = 16 * 1024
_PIECE = 16 * 1024


class Fetcher:
    """Open connections to nobody: each request has its own. `trusted` hosts may be private; `None` allows all."""

    def __init__(self, trusted: frozenset[str] | None) -> None:
        self._trusted = trusted
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Checked(trusted), ssl=context, force_close=True, use_dns_cache=False, limit=0
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, url: str, most_bytes: int) -> bytes:
        """The body of a plain answer. Raises NotFetched."""
        received = bytearray()
        try:
            self._check(url)
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise NotFetched(f"it answered {answer.status}")
                async for piece in answer.content.iter_chunked(_PIECE):
                    received += piece
                    if len(received) > most_bytes:
                        raise NotFetched(f"it sends more than {most_bytes} bytes")
        except TimeoutError as error:
            raise NotFetched(f"it took more than {TIMEOUT_S:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotFetched(f"nothing came ({type(error).__name__})") from error
        return bytes(received)

    def _check(self, url: str) -> None:
        """An address without a name never sees the resolver. Raises NotFetched, ValueError."""
        host = urlsplit(url).hostname or ""
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return
        if not _may_ask(self._trusted, host, host):
            raise NotFetched("it lies inside of a private network")


class _Checked(AbstractResolver):
    """The system's resolver, which forgets what lies inside."""

    def __init__(self, trusted: frozenset[str] | None) -> None:
        self._trusted = trusted
        self._resolver = ThreadedResolver(loop=asyncio.get_running_loop())

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not (usable := [place for place in found if _may_ask(self._trusted, host, place["host"])]):
            raise OSError(f"{host} lies inside of a private network")
        return usable

    async def close(self) -> None:
        await self._resolver.close()


def _may_ask(trusted: frozenset[str] | None, host: str, address: str) -> bool:
    return trusted is None or host in trusted or is_public(address)
