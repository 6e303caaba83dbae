"""Requests that two readers could take differently, against the whole provider: one meaning each, or none."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from protocol.ids import canonical_body, request_hash
from provider.api.paid import MAX_BODY_BYTES
from provider.guard import GuardLimits
from tests.support.provider_stack import ProviderStack, provider_stack
from tests.support.raw_connection import RawConnection
from tests.support.raw_gateway import RawGateway, chat_body, prepare
from tests.support.serving import serve
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/models HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc" + SECOND,
    "one length twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + SECOND,
    "lengths in a list": POST + b"Content-Length: 3, 3\r\n\r\nabc" + SECOND,
    "a signed length": POST + b"Content-Length: +3\r\n\r\nabc" + SECOND,
    "a negative length": POST + b"Content-Length: -3\r\n\r\nabc" + SECOND,
    "a length beyond all": POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc" + SECOND,
    "a length and chunks": POST + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + SECOND,
    "chunks and a length": POST + CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n" + SECOND,
    "chunks, then as it is": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SECOND,
    "chunks behind a tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SECOND,
    "a space before a colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "a folded line": POST + b"X-A: b\r\n Content-Length: 3\r\nContent-Length: 0\r\n\r\n" + SECOND,
    "a folded value": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "bare line feeds": b"GET /v1/models HTTP/1.1\nHost: x\n\n" + SECOND,
    "a bare line feed": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: b\nX-B: c\r\n\r\n" + SECOND,
    "a bare carriage return": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: b\rX-B: c\r\n\r\n" + SECOND,
    "a zero byte": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: b\x00c\r\n\r\n" + SECOND,
    "a zero byte in a name": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-\x00A: b\r\n\r\n" + SECOND,
    "a zero byte in the path": b"GET /v1/mod\x00els HTTP/1.1\r\nHost: x\r\n\r\n" + SECOND,
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n" + SECOND,
}
CUT = {
    "a line feed in an extension": POST + CHUNKED + b"\r\n3;a=\nb\r\nabc\r\n0\r\n\r\n" + SECOND,
    "line feeds between chunks": POST + CHUNKED + b"\r\n3\nabc\n0\n\n" + SECOND,
    "a chunk beyond all": POST + CHUNKED + b"\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n" + SECOND,
    "a negative chunk": POST + CHUNKED + b"\r\n-3\r\nabc\r\n0\r\n\r\n" + SECOND,
    "a chunk longer than it says": POST + CHUNKED + b"\r\n3\r\nabcXX0\r\n\r\n" + SECOND,
    "an unknown encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderStack]:
    limits = GuardLimits(address_burst=10_000, body_grace_s=30)
    async with provider_stack(tmp_path_factory.mktemp("provider"), guard=limits, credit=10**6) as running:
        yield running


async def answers(url: str, content: bytes, *, ends: bool = True) -> list[bytes]:
    """The statuses that come until the server closes; `ends`: nothing more will be sent."""
    raw = await RawConnection.open(url)
    with contextlib.suppress(ConnectionError):
        await raw.say(content)
        if ends:
            raw.writer.write_eof()
    received = await raw.until_closed()
    raw.close()
    return [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
async def test_a_head_with_two_meanings_is_refused_with_all_behind_it(stack: ProviderStack, content: bytes) -> None:
    assert await answers(stack.url, content) == [b"400"]


@pytest.mark.parametrize("content", CUT.values(), ids=CUT.keys())
async def test_a_body_with_two_meanings_ends_the_connection(stack: ProviderStack, content: bytes) -> None:
    assert b"200" not in await answers(stack.url, content)


async def test_without_a_second_meaning_both_are_answered(stack: ProviderStack) -> None:
    """The control: requests in a row, plain, in chunks with an extension and a trailer, and by an absolute address."""
    chunked = POST + CHUNKED + b"\r\n3;a=b\r\nabc\r\n0\r\nX-T: u\r\n\r\n"
    absolute = b"GET http://elsewhere/v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    last = SECOND.replace(b"Host: x", b"Host: x\r\nConnection: close")
    assert await answers(stack.url, SECOND + chunked + absolute + last, ends=False) == [b"200", b"405", b"200", b"200"]
    old = b"GET /v1/models HTTP/1.0\r\n\r\n" + SECOND
    assert await answers(stack.url, old) == [b"200"]


async def test_the_route_that_is_hashed_is_the_one_that_is_asked(stack: ProviderStack) -> None:
    """Whatever `Host` says: an address put together from it may have another path, or be none."""
    lease = stack.add_lease()
    async with RawGateway(stack.url) as gateway:
        for seq, host in enumerate(["a/v1/embeddings?", "[", "a:b:c", ""]):
            prepared = prepare(lease.lease_id, seq=seq, body=chat_body(max_tokens=1))
            answer = await gateway.post(prepared, {**prepared.headers(), "Host": host})
            assert answer.status_code == httpx.codes.OK, answer.text
        other = prepare(lease.lease_id, seq=9, body=chat_body(max_tokens=1))
        digest = request_hash(other.context.salt, canonical_body("POST /v1/embeddings", other.body))
        assert digest != other.context.request_hash
        false = prepare(lease.lease_id, seq=9, body=chat_body(max_tokens=1), path="/v1/embeddings")
        false.path = "/v1/chat/completions"
        answer = await gateway.post(false, {**false.headers(), "Host": "a/v1/embeddings?"})
        assert answer.json()["error"]["code"] == "request_hash"


def head_of(stack: ProviderStack, framing: bytes) -> bytes:
    """A paid request's head."""
    prepared = prepare(stack.add_lease().lease_id)
    fields = "".join(f"{name}: {value}\r\n" for name, value in prepared.headers().items())
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + fields.encode() + framing + b"\r\n"


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
async def test_an_endless_body_is_refused_and_then_cut_off(stack: ProviderStack, is_chunked: bool) -> None:
    """The answer comes before the body's end; of what follows only so much is taken."""
    raw = await RawConnection.open(stack.url)
    await raw.say(head_of(stack, CHUNKED if is_chunked else b"Content-Length: 999999999999\r\n"))
    piece = b"x" * 65_536
    piece = b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece
    reading = asyncio.create_task(raw.reader.readuntil(b"\r\n"))
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 4 * MAX_BODY_BYTES:
            await raw.say(piece)
            sent += len(piece)
            if not is_chunked:
                await reading
    assert (await reading).startswith(b"HTTP/1.1 413 ")
    raw.close()
    assert sent < 4 * MAX_BODY_BYTES
    await until(lambda: stack.service.running() == 0)


async def test_a_client_that_leaves_before_its_body_is_there_writes_no_line(
    stack: ProviderStack, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        raw = await RawConnection.open(stack.url)
        await raw.say(head_of(stack, b"Content-Length: 1000\r\nExpect: 100-continue\r\n"))
        assert (await raw.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 100 ")
        raw.close()
    async with RawGateway(stack.url) as gateway:
        assert (await gateway.http.get("/v1/models")).status_code == httpx.codes.OK
    assert [record.getMessage() for record in caplog.records if record.name.startswith("provider")] == []


async def test_expecting_to_continue_costs_no_body_where_the_answer_is_no(stack: ProviderStack) -> None:
    expects = b"Expect: 100-continue\r\n"
    refused = await RawConnection.open(stack.url)
    await refused.say(head_of(stack, expects + b"Content-Length: 999999999\r\n"))
    assert (await refused.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")
    refused.close()
    taken = await RawConnection.open(stack.url)
    await taken.say(head_of(stack, expects + b"Content-Length: 5\r\n"))
    assert (await taken.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 100 ")
    taken.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "endless",
    [b";abcdefg" * 8_192, b"X-T: " + b"y" * 65_536, b"X-T: y\r\n" * 8_192],
    ids=["extension", "trailer", "trailers"],
)
async def test_chunks_have_little_around_them(tmp_path: Path, endless: bytes) -> None:
    """Extensions and trailers are no part of a body, and would be read, and kept, for as long as one has time."""
    sent = {}
    async with provider_stack(tmp_path, guard=GuardLimits(body_grace_s=30)) as stack, serve(sleeper) as bare:
        for name, url in (("guarded", stack.url), ("bare", bare)):
            raw = await RawConnection.open(url)
            start = b"1" if endless.startswith(b";") else b"0\r\n"
            sent[name] = 0
            with contextlib.suppress(ConnectionError):
                await raw.say(head_of(stack, CHUNKED) + start)
                while sent[name] < 500:
                    await raw.say(endless)
                    sent[name] += 1
            raw.close()
    assert sent["guarded"] < sent["bare"]


async def sleeper(scope: object, receive: object, send: object) -> None:
    """Takes its time: what the server keeps meanwhile is what counts."""
    await asyncio.Event().wait()


async def test_small_chunks_are_taken(stack: ProviderStack) -> None:
    lease = stack.add_lease()
    prepared = prepare(lease.lease_id, body=chat_body("x" * 5_000, max_tokens=1))

    async def by_the_byte() -> AsyncIterator[bytes]:
        for byte in prepared.body:
            yield bytes([byte])

    async with RawGateway(stack.url) as gateway:
        answer = await gateway.http.post(prepared.path, content=by_the_byte(), headers=prepared.headers())
    assert answer.json()["error"]["code"] == "caps"  # read to its end: it is the prompt that is too long
