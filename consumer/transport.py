"""Connections to one provider, for what asks it hundreds of times a second: aiohttp's, with httpx's exceptions.

httpx looks at every pooled connection whenever a request begins or ends and builds much around it, which was half of a
short request's cost. Exceptions are told apart by what matters to money: with `ConnectError` and `ConnectTimeout`
nothing was sent, with every other one something may have been.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import httpx
from yarl import URL

MAX_CONNECTIONS = 1024
KEPT_S = 4.0
"""How long an idle connection is kept: less than uvicorn keeps its side."""

_CLASSES: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (TimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (OSError, httpx.ReadError),
    (aiohttp.ClientError, httpx.RemoteProtocolError),
)
"""The first that fits counts."""


class Response:
    """An answer's status and headers; its body is on its way."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status_code = response.status

    @property
    def headers(self) -> httpx.Headers:
        """All of them, repeated ones too."""
        return httpx.Headers(list(self._response.raw_headers))

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""
        async for chunk in self._response.content.iter_any():
            yield chunk


class ProviderHttp:
    """One provider's address. Everything raises httpx.TransportError."""

    def __init__(self, base_url: str, verify: ssl.SSLContext | bool, connect_s: float, idle_s: float) -> None:  # noqa: FBT001
        """`idle_s` is how long a provider may be silent, `connect_s` how long a connection may take."""
        self._base = URL(base_url.rstrip("/"))
        self._verify = verify
        self._head_s = connect_s + idle_s  # also where it comes byte by byte
        self._timeout = aiohttp.ClientTimeout(total=None, connect=idle_s, sock_connect=connect_s, sock_read=idle_s)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def post(self, path: str, headers: Mapping[str, str], body: bytes = b"") -> AsyncIterator[Response]:
        """The response to a request, as soon as its head is there; leaving before its end breaks it off."""
        await asyncio.sleep(0)  # connections that the other side has closed by now leave the pool
        with _as_httpx():
            async with asyncio.timeout(self._head_s):
                response = await self._opened().post(
                    self._base.joinpath(path.lstrip("/"), encoded=True),
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                )
            try:
                yield Response(response)
            finally:
                if not response.content.at_eof():
                    response.close()

    async def aclose(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEPT_S, ssl=self._verify),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
                timeout=self._timeout,
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


@contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        found = next(theirs for ours, theirs in _CLASSES if isinstance(error, ours))
        raise found(str(error) or type(error).__name__) from error
