"""Reading from a server that nobody trusts: bounded in size and time, nothing unpacked, no redirect followed."""

import asyncio

import httpx

from consumer.exceptions import ProviderFailed
from consumer.tls import wrong_key

TIMEOUT_S = 10.0
_PIECE = 16 * 1024


async def fetch(http: httpx.AsyncClient, url: str, most_bytes: int) -> bytes:
    """The body of a plain answer, all of it within the time limit. Raises ProviderFailed."""
    received = bytearray()
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            http.stream("GET", url, headers={"Accept-Encoding": "identity"}, follow_redirects=False) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise ProviderFailed(f"{url} answered {answer.status_code}")
            async for piece in answer.aiter_raw(_PIECE):
                received += piece
                if len(received) > most_bytes:
                    raise ProviderFailed(f"{url} sends more than {most_bytes} bytes")
    except TimeoutError as error:
        raise ProviderFailed(f"{url} took more than {TIMEOUT_S:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ProviderFailed(f"nothing from {url}: {wrong_key(error) or type(error).__name__}") from error
    return bytes(received)
