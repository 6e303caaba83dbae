"""TLS connections that never greet, never say goodbye, or want to greet again."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from consumer.tls import unchecked_context
from provider import tls
from provider.exceptions import ConfigError
from provider.guard import GuardLimits
from tests.support.raw_connection import RawConnection
from tests.support.serving import serve

SHORT = GuardLimits(handshake_timeout_s=1, closing_timeout_s=0.4, head_timeout_s=30)
LONG = GuardLimits(handshake_timeout_s=60, closing_timeout_s=0.4)
HELLO = bytes.fromhex("160301020001000100")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    await PlainTextResponse(f"{request.url.scheme} {len(await request.body())}")(scope, receive, send)


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    return tls.server_context(tls.ensure(tmp_path, ["127.0.0.1"]))


async def ask(url: str, size: int = 5) -> str:
    async with httpx.AsyncClient(verify=unchecked_context(), base_url=url) as http:
        return (await http.post("/", content=b"x" * size)).text


async def silent(raw: RawConnection, ended: Callable[[], bool]) -> None:
    """Connects and says nothing."""


async def slow_hello(raw: RawConnection, ended: Callable[[], bool]) -> None:
    """A byte of its greeting every moment."""
    await raw.say(b"\x16\x03\x01\x02\x00\x01")
    while not ended():
        await raw.say(b"\x00")
        await asyncio.sleep(0.05)


Attack = Callable[[RawConnection, Callable[[], bool]], Coroutine[Any, Any, None]]


async def _is_held(url: str, attack: Attack, for_s: float) -> bool:
    raw, over = await RawConnection.open(url), False

    async def keep_on() -> None:
        with contextlib.suppress(ConnectionError):
            await attack(raw, lambda: over)

    attacking = asyncio.create_task(keep_on())
    held = await raw.is_held(for_s)
    over = True
    await attacking
    raw.close()
    return held


@pytest.mark.slow
@pytest.mark.parametrize("attack", [silent, slow_hello])
async def test_a_handshake_that_never_ends_is_cut_off_and_would_hold_an_unguarded_server(
    context: ssl.SSLContext, attack: Attack
) -> None:
    async with serve(echo, SHORT, context) as guarded, serve(echo, None, context) as bare:
        assert await _is_held(bare, attack, 1.5)
        assert not await _is_held(guarded, attack, 30)
        assert await ask(guarded) == "https 5"


async def test_connections_count_before_their_handshake(context: ssl.SSLContext) -> None:
    limits = GuardLimits(connections_per_address=3, handshake_timeout_s=60)
    async with serve(echo, limits, context) as url:
        greeting = [await RawConnection.open(url) for _ in range(3)]
        fourth = await RawConnection.open(url)
        assert await fourth.until_closed() == b""
        fourth.close()
        for raw in greeting:
            raw.close()
        async with asyncio.timeout(30):
            while await _is_full(url):  # noqa: ASYNC110 - the server notices in its own time
                await asyncio.sleep(0.01)


async def _is_full(url: str) -> bool:
    try:
        return await ask(url) != "https 5"
    except httpx.TransportError:
        return True


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 1000, HELLO])
async def test_what_is_no_handshake_is_closed_and_its_place_is_free(context: ssl.SSLContext, noise: bytes) -> None:
    async with serve(echo, GuardLimits(connections_per_address=1, handshake_timeout_s=1), context) as url:
        for _ in range(3):
            raw = await RawConnection.open(url)
            await raw.say(noise)
            await raw.until_closed()
            raw.close()
        assert await ask(url) == "https 5"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_requests_right_behind_the_handshake_are_answered(
    context: ssl.SSLContext, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """On either loop; bodies of many records arrive whole."""

    async def work() -> None:
        async with serve(echo, LONG, context) as url:
            for size in (0, 5, 300_000):
                answers = await asyncio.gather(*(ask(url, size) for _ in range(10)))
                assert answers == [f"https {size}"] * 10

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_data_in_the_packet_that_ends_the_handshake_is_not_lost(
    context: ssl.SSLContext, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"

    async def work() -> None:
        async with serve(echo, LONG, context) as url:
            raw = await RawConnection.open(url)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = unchecked_context().wrap_bio(incoming, outgoing)
            while True:
                try:
                    client.do_handshake()
                except ssl.SSLWantReadError:
                    await raw.say(outgoing.read())
                    incoming.write(await raw.reader.read(65_536))
                else:
                    break
            client.write(request)
            await raw.say(outgoing.read())  # the handshake's last message and the request at once
            incoming.write(await raw.until_closed())
            assert client.read(65_536).startswith(b"HTTP/1.1 200 ")
            raw.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work())


async def test_a_client_that_never_says_goodbye_is_dropped(context: ssl.SSLContext) -> None:
    """It reads the answer, and neither closes nor answers the server's last message."""
    async with serve(echo, SHORT, context) as url:
        address = httpx.URL(url)
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=unchecked_context())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.readuntil(b"https 0")).startswith(b"HTTP/1.1 200 ")
        assert await reader.read() == b""
        writer.transport.abort()


async def test_renegotiation_is_refused(context: ssl.SSLContext) -> None:
    async with serve(echo, LONG, context) as url:
        address = httpx.URL(url)
        client = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-tls1_2", "-connect", f"{address.host}:{address.port}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        said = await client.stdout.readuntil(b"Extended master secret")
        client.stdin.write(b"R\n")
        said += await asyncio.wait_for(client.stdout.read(), 30)
        await client.wait()
        assert b"RENEGOTIATING" in said
        assert b"no renegotiation" in said
        assert await ask(url) == "https 5"


def test_a_certificate_of_another_key_is_a_clear_error(tmp_path: Path) -> None:
    one, other = tls.ensure(tmp_path / "one", ["localhost"]), tls.ensure(tmp_path / "other", ["localhost"])
    with pytest.raises(ConfigError, match="do not work"):
        tls.server_context(tls.TlsFiles(one.certificate, other.key, one.pin))
