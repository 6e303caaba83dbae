"""Slow, silent and too many clients against a real server; each attack holds a server without the guard."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from provider.guard import GuardLimits, address_key
from provider.guard.addresses import Connections
from tests.support.raw_connection import RawConnection
from tests.support.serving import serve
from tests.support.waiting import until

SHORT = GuardLimits(head_timeout_s=0.4, body_grace_s=0.4, send_timeout_s=0.4)
PIECE = b"x" * 65_536


class Application:
    """Reads the body, then answers; `/stream` writes for ever. Counts what is in work."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        try:
            request = Request(scope, receive)
            if request.url.path == "/early":
                await PlainTextResponse("no")(scope, receive, send)
            elif request.url.path == "/stream":
                await StreamingResponse(self._pieces())(scope, receive, send)
            else:
                body = await request.body()
                await PlainTextResponse(str(len(body)))(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            self.running -= 1

    async def _pieces(self) -> AsyncIterator[bytes]:
        while True:
            yield PIECE
            await asyncio.sleep(0)


async def _alive(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/", content=b"12345")).text == "5"


async def slow_head(raw: RawConnection, ended: Callable[[], bool]) -> None:
    """Slowloris: one more header every moment, never the last."""
    await raw.say(b"GET / HTTP/1.1\r\nHost: x\r\n")
    while not ended():
        await raw.say(b"X-a: b\r\n")
        await asyncio.sleep(0.05)


async def silent(raw: RawConnection, ended: Callable[[], bool]) -> None:
    """Connects and says nothing."""


async def blank_lines(raw: RawConnection, ended: Callable[[], bool]) -> None:
    """A line feed now and then, between requests."""
    await raw.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    while not ended():
        await raw.say(b"\r\n")
        await asyncio.sleep(0.05)


async def slow_body(raw: RawConnection, ended: Callable[[], bool]) -> None:
    """A byte of the body every moment."""
    await raw.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    while not ended():
        await raw.say(b"x")
        await asyncio.sleep(0.05)


async def unwanted_body(raw: RawConnection, ended: Callable[[], bool]) -> None:
    """Goes on with the body though the answer was given."""
    await raw.say(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    while not ended():
        await raw.say(b"x")
        await asyncio.sleep(0.05)


Attack = Callable[[RawConnection, Callable[[], bool]], Awaitable[None]]


async def _is_held(url: str, attack: Attack, for_s: float) -> bool:
    raw = await RawConnection.open(url)
    over = False

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
@pytest.mark.parametrize("attack", [slow_head, silent, blank_lines, slow_body, unwanted_body])
async def test_slow_client_is_cut_off_and_would_hold_an_unguarded_server(attack: Attack) -> None:
    app = Application()
    async with serve(app, SHORT) as guarded, serve(app) as bare:
        assert await _is_held(bare, attack, 1.5)
        assert not await _is_held(guarded, attack, 30)
        await until(lambda: app.running == 0)
        await _alive(guarded)


async def test_steady_upload_takes_as_long_as_it_needs() -> None:
    limits = GuardLimits(body_grace_s=0.5, body_bytes_per_s=10_000)
    async with serve(Application(), limits) as url:
        raw = await RawConnection.open(url)
        await raw.say(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(20):
            await raw.say(b"x" * 5_000)
            await asyncio.sleep(0.05)
        assert (await raw.until_closed()).endswith(b"100000")
        raw.close()


async def test_client_that_does_not_read_is_cut_off() -> None:
    app = Application()
    async with AsyncExitStack() as stack:
        guarded = await stack.enter_async_context(serve(app, SHORT, SO_SNDBUF=8192))
        reader = await RawConnection.open(guarded, 8192)
        await reader.say(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: app.running == 1)
        await until(lambda: app.running == 0)
        reader.close()
        await _alive(guarded)

        bare = await stack.enter_async_context(serve(app, SO_SNDBUF=8192))
        reader = await RawConnection.open(bare, 8192)
        await reader.say(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: app.running == 1)
        await asyncio.sleep(1.5)
        assert app.running == 1
        reader.close()
        await until(lambda: app.running == 0)


async def test_slow_reader_who_makes_progress_is_served_on() -> None:
    app = Application()
    limits = GuardLimits(send_timeout_s=1)
    async with serve(app, limits, SO_SNDBUF=8192) as url:
        reader = await RawConnection.open(url, 8192)
        await reader.say(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(40):
            assert await reader.reader.readexactly(8_000)
            await asyncio.sleep(0.05)
        assert app.running == 1
        reader.close()
        await until(lambda: app.running == 0)


@pytest.mark.parametrize(
    "head",
    [
        b"X-a: " + b"b" * 20_000 + b"\r\n",
        b"X: y\r\n" * 100,
        b"".join(b"X-%d: %s\r\n" % (n, b"y" * 900) for n in range(30)),
    ],
    ids=["long", "many", "many-long"],
)
@pytest.mark.parametrize("pieces", [1, 10])
async def test_heads_have_a_size(head: bytes, pieces: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n"
    step = -(-len(request) // pieces)
    async with serve(Application(), GuardLimits()) as guarded, serve(Application()) as bare:
        for url, status in ((guarded, b"431"), (bare, b"200")):
            raw = await RawConnection.open(url)
            try:
                for start in range(0, len(request), step):
                    await raw.say(request[start : start + step])
                    await asyncio.sleep(0.01)
            except ConnectionError:
                assert status == b"431"
            else:
                assert (await raw.until_closed())[9:12] in (status, b"")
            raw.close()
        await _alive(guarded)


async def test_endless_head_line_is_not_kept() -> None:
    async with serve(Application(), GuardLimits()) as guarded, serve(Application()) as bare:
        assert await _sent_of_endless_line(bare) == 2_000
        assert await _sent_of_endless_line(guarded) < 2_000
        await _alive(guarded)


async def _sent_of_endless_line(url: str) -> int:
    """How many pieces of 4 KiB are taken, of 2,000 at most."""
    raw = await RawConnection.open(url)
    sent = 0
    with contextlib.suppress(ConnectionError):
        await raw.say(b"GET /")
        while sent < 2_000:
            await raw.say(b"a" * 4_096)
            sent += 1
    raw.close()
    return sent


async def test_connections_of_one_address_are_limited_and_the_newest_refused() -> None:
    app = Application()
    async with serve(app, GuardLimits(connections_per_address=3)) as url:
        first = [await RawConnection.open(url) for _ in range(3)]
        for raw in first:
            await raw.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        await until(lambda: app.running == 3)
        fourth = await RawConnection.open(url)
        await fourth.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await fourth.until_closed()
        fourth.close()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        for raw in first:
            await raw.say(b"abc")
            assert (await raw.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            raw.close()
        await until(lambda: app.running == 0)

        await _alive(url)


def test_connections_are_counted_by_address_and_in_all() -> None:
    connections = Connections(GuardLimits(connections=4, connections_per_address=2, trusted_proxies=("10.0.0.9",)))
    assert [connections.enter("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert [connections.enter("10.0.0.2") for _ in range(3)] == [True, True, False]
    assert not connections.enter("10.0.0.3")
    connections.leave("10.0.0.1")
    connections.leave("10.0.0.1")
    connections.leave("10.0.0.2")
    assert connections.total == 1
    assert [connections.enter("10.0.0.9") for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_one_customer_is_one_address(host: str, key: str) -> None:
    assert address_key(host) == key
