"""Cancelled at any moment, refused, stalled or flooded: no request keeps money aside, or anybody waiting, for ever."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consumer import answer_stream, lease_client
from consumer.asked import read
from consumer.exceptions import ConsumerError, ProviderFailed, ProviderRefused, ReceiptRejected
from consumer.lease_client import GIVEN_UP_S, RETRY_PAUSES_S, End, Question
from consumer.records import Draft, RequestState
from consumer.repeating import EMBEDDINGS
from consumer.tokenizer import PromptCounter
from protocol.headers import RefusalCode, ResponseHeaders
from tests.consumer.buyer import MESSAGES, PROMPT, Buyer, hostile, record_of
from tests.consumer.hostile_provider import PRICE_IN, HostileProvider
from tests.support.http_connection import Connection, Headers
from tests.support.lying_provider import TEXT, Identity, LyingProvider
from tests.support.provider_stack import DOMAIN, NODE, PROVIDER, TestClock, make_lease, make_offer
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio
QUESTION = Question(MESSAGES, max_tokens=len(TEXT), temperature=0)
IDENTITY = Identity(DOMAIN, PROVIDER, NODE, make_offer())


@asynccontextmanager
async def buying(
    folder: Path, counter: PromptCounter, provider: LyingProvider, **options: object
) -> AsyncIterator[Buyer]:
    """A buyer whose `clock` it goes by."""
    record = record_of(make_lease(IDENTITY.offer.terms), provider.url)
    clock = TestClock()
    async with Buyer(folder, record, clock.now, counter, **options) as buyer:
        buyer.clock = clock
        yield buyer


async def test_a_request_cancelled_before_it_was_sent_keeps_nothing_aside(
    tmp_path: Path, counter: PromptCounter
) -> None:
    async with LyingProvider(IDENTITY) as provider, buying(tmp_path, counter, provider) as buyer:
        room = buyer.client.room()
        asking = asyncio.create_task(buyer.ask(QUESTION))
        while not buyer.client.book.open:  # noqa: ASYNC110 - cancelled at this very moment
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: buyer.client.room() == room)
        assert provider.seen == []
        assert buyer.store.state(buyer.lease_id, 0) is RequestState.REFUSED


@pytest.mark.slow
async def test_cancelled_at_any_moment_memory_and_disk_agree_on_what_is_open(
    tmp_path: Path, counter: PromptCounter
) -> None:
    async with LyingProvider(IDENTITY) as provider, buying(tmp_path, counter, provider) as buyer:
        for steps in range(400):
            asking = asyncio.create_task(buyer.ask(QUESTION))
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: buyer.client.book.open == {r.context.seq for r in buyer.store.unfinished(buyer.lease_id)})
        buyer.clock.shift = 200
        await buyer.client.resolve()
        await until(lambda: not buyer.client.book.open)
        assert buyer.client.book.owed == buyer.store.owed(buyer.lease_id)


@pytest.mark.parametrize("requests", [1, 8, 32])
async def test_requests_that_are_refused_for_want_of_payment_do_not_wake_each_other_for_ever(
    tmp_path: Path, counter: PromptCounter, requests: int
) -> None:
    provider = HostileProvider(PROMPT, refusal=(RefusalCode.UNPAID, {}))
    async with hostile(tmp_path, counter, provider) as buyer, asyncio.timeout(30):
        found = await asyncio.gather(*(buyer.ask() for _ in range(requests)), return_exceptions=True)
        assert {type(each) for each in found} == {ProviderRefused}
        assert len(provider.seen) <= requests * (len(RETRY_PAUSES_S) + 1)


class Takes(LyingProvider):
    """Wants the prompt paid in advance, and then does not answer it."""

    async def _paid(self, connection: Connection, path: str, headers: Headers, body: bytes) -> None:
        code = RefusalCode.BUSY if self.asked else RefusalCode.PREPAY
        self.asked = True
        error = {"message": "", "code": code.value, "details": {"credit_cap": "0"}}
        connection.answer(code.http_status, json.dumps({"error": error}), ResponseHeaders(refusal=code).encode())

    asked = False


class Held:
    """A hold, as a budget has it."""

    def __init__(self) -> None:
        self.cost = 0

    def settle(self, cost: int) -> None:
        self.cost = cost


async def test_what_was_paid_in_advance_and_refused_counts_as_spent(tmp_path: Path, counter: PromptCounter) -> None:
    holds: list[Held] = []

    def hold(_: Draft) -> Held:
        holds.append(Held())
        return holds[-1]

    async with Takes(IDENTITY) as provider, buying(tmp_path, counter, provider, hold=hold) as buyer:
        with pytest.raises(ProviderRefused):
            await buyer.ask(QUESTION)
        assert sum(each.cost for each in holds) == buyer.cumulative == PROMPT * PRICE_IN
        assert buyer.client.book.owed == 0


class Hides(LyingProvider):
    """Fails, and does not say then what became of it: not soon with `stalls`, and never without."""

    stalls = False

    async def _paid(self, connection: Connection, path: str, headers: Headers, body: bytes) -> None:
        if self.stalls:
            await asyncio.Event().wait()
        connection.answer(500, "{}")


async def test_what_a_provider_hides_holds_no_new_request_up_and_no_money_for_ever(
    tmp_path: Path, counter: PromptCounter
) -> None:
    async with Hides(IDENTITY) as provider, buying(tmp_path, counter, provider, idle_timeout_s=0.5) as buyer:
        for _ in range(12):
            with pytest.raises(ProviderRefused):
                await buyer.ask(QUESTION)
        room = buyer.client.room()
        buyer.clock.shift = 200
        provider.stalls = True
        began = time.monotonic()
        with pytest.raises(ProviderFailed):
            await buyer.ask(QUESTION)
        assert time.monotonic() - began < 5
        provider.stalls = False
        await buyer.client.resolve()
        assert buyer.client.room() <= room
        buyer.clock.shift += GIVEN_UP_S + 1
        await buyer.client.resolve()
        assert buyer.client.book.open == frozenset()
        assert buyer.client.room() == buyer.record.deposit


class Floods(LyingProvider):
    """Answers with `words` again and again, as fast as they are taken."""

    words = b""
    sent = 0

    async def _paid(self, connection: Connection, path: str, headers: Headers, body: bytes) -> None:
        connection.begin(None)
        while True:
            connection.send(self.words)
            self.sent += len(self.words)
            await connection.writer.drain()


_ENTRY = {"index": 0, "delta": {"role": "assistant", "thoughts": "x" * 500_000}, "finish_reason": None}


@pytest.mark.parametrize(
    "words", [b": x\n\n" * 10_000, b"data: " + json.dumps({"choices": [_ENTRY]}).encode() + b"\n\n"]
)
async def test_an_answer_without_tokens_ends_soon(tmp_path: Path, counter: PromptCounter, words: bytes) -> None:
    async with Floods(IDENTITY) as provider, buying(tmp_path, counter, provider) as buyer, asyncio.timeout(20):
        provider.words = words
        with pytest.raises(ProviderFailed, match="far more than was asked for"):
            await buyer.ask(QUESTION)
        assert provider.sent < 20_000_000


class Drips(LyingProvider):
    """Brings one part of an answer byte by byte."""

    part = ""

    async def _paid(self, connection: Connection, path: str, headers: Headers, body: bytes) -> None:
        if self.part == "voucher":
            await super()._paid(connection, path, headers, body)
        else:
            await self._drip(connection)

    async def _serve(self, connection: Connection, method: str, path: str, headers: Headers, body: bytes) -> None:
        if self.part == "voucher" and path.endswith("/vouchers"):
            await self._drip(connection)
        await super()._serve(connection, method, path, headers, body)

    async def _drip(self, connection: Connection) -> None:
        head = b"HTTP/1.1 503 X\r\nContent-Length: 60000\r\n"
        connection.writer.write(head + (b"X-Word: " if self.part == "head" else b"\r\n"))
        while True:
            connection.writer.write(b"x")
            await connection.writer.drain()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("part", ["head", "body", "voucher"])
async def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(
    tmp_path: Path, counter: PromptCounter, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(answer_stream, "WHOLE_S", 0.5)
    monkeypatch.setattr(lease_client, "CONNECT_S", 0.5)
    async with Drips(IDENTITY) as provider, asyncio.timeout(10):
        provider.part = part
        async with buying(tmp_path, counter, provider, idle_timeout_s=0.5) as buyer:
            if part == "voucher":
                await buyer.ask(QUESTION)
            else:
                with pytest.raises(ConsumerError):
                    await buyer.ask(QUESTION)


class Swells(LyingProvider):
    """Embeds one text as `count` components."""

    count = 0

    async def _serve(self, connection: Connection, method: str, path: str, headers: Headers, body: bytes) -> None:
        if path != EMBEDDINGS:
            await super()._serve(connection, method, path, headers, body)
            return
        content = b'{"data":[{"embedding":[' + b",".join([b"0"] * self.count) + b"]}]}"
        connection.writer.write(b"HTTP/1.1 200 X\r\nClawmarket-Version: 1\r\nContent-Length: %d\r\n\r\n" % len(content))
        for start in range(0, len(content), 1024):
            connection.writer.write(content[start : start + 1024])
            await connection.writer.drain()


@pytest.mark.parametrize(("count", "error"), [(20_000, ReceiptRejected), (4_000_000, ProviderFailed)])
async def test_a_vector_longer_than_any_is_no_work(
    tmp_path: Path, counter: PromptCounter, count: int, error: type[ConsumerError]
) -> None:
    body = json.dumps({"model": "x", "input": "hello"}).encode()
    asked = read(EMBEDDINGS, body, IDENTITY.offer.terms, counter)
    assert asked is not None
    async with Swells(IDENTITY) as provider, buying(tmp_path, counter, provider) as buyer, asyncio.timeout(10):
        provider.count = count
        with pytest.raises(error):
            await buyer.client.embed(asked, body)


def modes(folder: Path) -> set[int]:
    """Who may do what with the records."""
    return {path.stat().st_mode & 0o777 for path in folder.glob("consumer.*")}


async def test_nobody_else_reads_the_records(tmp_path: Path, counter: PromptCounter) -> None:
    async with LyingProvider(IDENTITY) as provider, buying(tmp_path, counter, provider) as buyer:
        await buyer.ask(QUESTION)
        assert modes(tmp_path) == {0o600}


class Stays(LyingProvider):
    """Keeps the connection open after the whole answer."""

    async def _paid(self, connection: Connection, path: str, headers: Headers, body: bytes) -> None:
        connection.end = lambda: None  # type: ignore[method-assign]
        await super()._paid(connection, path, headers, body)
        await connection.until_left()


async def test_a_whole_answer_ends_though_its_connection_stays_open(tmp_path: Path, counter: PromptCounter) -> None:
    async with Stays(IDENTITY) as provider, buying(tmp_path, counter, provider) as buyer, asyncio.timeout(10):
        events = await buyer.ask(QUESTION)
        assert isinstance(events[-1], End)
