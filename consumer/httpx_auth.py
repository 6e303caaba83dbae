"""Paying as a plain `openai` client asks: an `httpx.Auth` that signs for every request and checks every answer.

    client = openai.OpenAI(
        base_url=record.endpoint + "/v1", api_key="unused", http_client=httpx.Client(auth=MarketAuth(lease_client))
    )

Every attempt, a client's own retries included, gets a number and a voucher of its own. Receipts of a stream are checked
as the application reads it, and each is answered by a voucher on the side channel, so a streamed answer may cost any
multiple of the credit cap. A whole answer shows nothing until its end: one that costs more than the cap stops with
`unpaid`, and is to be streamed instead. Only a prompt above the cap is paid in advance, by our own count.

Once a provider's word was wrong nothing more is asked under that lease.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterator
from typing import Any, TypeVar

import httpx

from consumer.answer_stream import Lines
from consumer.asked import Asked, is_paid, read
from consumer.exceptions import ProviderFailed, ReceiptRejected
from consumer.lease_client import Exchange, LeaseClient, Turns
from consumer.whole_answer import count_whole
from protocol.headers import Exposure, Signed
from protocol.typed_data import Receipt

T = TypeVar("T")


class MarketAuth(httpx.Auth):
    """One lease's money for any number of clients, synchronous and not. Close it after them.

    The lease's records and keys are used on one thread of its own.
    """

    requires_request_body = True

    def __init__(self, client: LeaseClient) -> None:
        """`client` belongs to this object from now on; its store may not be used elsewhere before `close`."""
        self.client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="market-auth", daemon=True)
        self._thread.start()
        self._rejected: ReceiptRejected | None = None

    def close(self) -> None:
        """Waits for vouchers on their way, and for the ends of answers that broke off."""
        if self._thread.is_alive():
            self.call(self.client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def aclose(self) -> None:
        """The same, from an event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> "MarketAuth":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """For `httpx.Client`."""
        request.read()
        attempts = self._attempts(request)
        if attempts is None:
            yield request
            return
        while True:
            exchange = self.call(attempts.begin())
            is_over = True
            try:
                response = yield request
                if response.status_code == httpx.codes.OK:
                    if self._is_stream(exchange, attempts, response):
                        is_over = False
                        response.stream = _SyncWatched(response.stream, self, exchange)
                    else:
                        self.call(self._take(exchange, attempts.vectors, response.headers, response.read()))
                    return
                if not self.call(attempts.may_try_again(response, response.read())):
                    return
            finally:
                if is_over:
                    self.call(self.end(exchange))

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """For `httpx.AsyncClient`."""
        await request.aread()
        attempts = self._attempts(request)
        if attempts is None:
            yield request
            return
        while True:
            exchange = await self.acall(attempts.begin())
            is_over = True
            try:
                response = yield request
                if response.status_code == httpx.codes.OK:
                    if self._is_stream(exchange, attempts, response):
                        is_over = False
                        response.stream = _AsyncWatched(response.stream, self, exchange)
                    else:
                        await self.acall(
                            self._take(exchange, attempts.vectors, response.headers, await response.aread())
                        )
                    return
                if not await self.acall(attempts.may_try_again(response, await response.aread())):
                    return
            finally:
                if is_over:
                    await self.acall(self.end(exchange))

    def _attempts(self, request: httpx.Request) -> "_Attempts | None":
        """None for a request that costs nothing, or that no provider would take: then it says why by itself."""
        if not is_paid(request.method, request.url.path):
            return None
        if self._rejected is not None:
            raise self._rejected
        asked = read(request.url.path, request.content, self.client.record.terms, self.client.counter)
        return None if asked is None else _Attempts(self.client, request, asked)

    def _is_stream(self, exchange: Exchange, attempts: "_Attempts", response: httpx.Response) -> bool:
        """Whether the answer is a stream. Raises ReceiptRejected for one that its reader would not understand."""
        found = is_stream(response)
        if found != attempts.is_streamed or response.headers.get("content-encoding", "identity") != "identity":
            raise self.reject(exchange, ReceiptRejected("form", "the answer came in another form than was asked for"))
        return found

    async def end(self, exchange: Exchange) -> None:
        """After an exchange, however it ended; again is no fault."""
        self.client.end(exchange)

    async def _take(self, exchange: Exchange, vectors: int, headers: httpx.Headers, content: bytes) -> None:
        """Checks and pays a whole answer. Raises ReceiptRejected, ProviderFailed."""
        self.client.admitted(exchange)
        try:
            signed = count_whole(exchange.stream, vectors, headers, content)
        except ReceiptRejected as error:
            raise self.reject(exchange, error) from error
        await self.accept(exchange, signed)

    async def accept(self, exchange: Exchange, signed: Signed[Receipt]) -> None:
        """Checks a receipt and pays it. Raises ReceiptRejected, ProviderFailed."""
        try:
            await self.client.accept(exchange, signed)
        except ReceiptRejected as error:
            raise self.reject(exchange, error) from error

    def reject(self, exchange: Exchange, error: ReceiptRejected) -> ReceiptRejected:
        """Notes that the provider's word was wrong; gives the error back."""
        exchange.is_rejected = True
        self._rejected = self._rejected or error
        return error

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs work on the lease's thread, from any other."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def acall(self, work: Coroutine[Any, Any, T]) -> T:
        """The same, from an event loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


class _Attempts:
    """One request, asked until it is not refused for want of payment."""

    def __init__(self, client: LeaseClient, request: httpx.Request, asked: Asked) -> None:
        self._client = client
        self._request = request
        self._asked = asked
        self.vectors = asked.vectors
        self.is_streamed = asked.is_streamed
        self._turns: Turns | None = None
        self._exchange: Exchange | None = None

    async def begin(self) -> Exchange:
        """Signs for the request and sets its headers. Raises TokenizerUnusable, LeaseExhausted, StoreError."""
        if self._turns is None:
            self._turns = self._client.turns(self._asked.limits)
        self._exchange = await self._turns.begin(self._asked.path, self._request.content, self._asked.shape)
        self._request.headers.update({**self._exchange.headers(), "Accept-Encoding": "identity"})
        return self._exchange

    async def may_try_again(self, response: httpx.Response, content: bytes) -> bool:
        """Whether a refused request is worth another attempt, after waiting for it. Raises PrepayRejected."""
        if self._turns is None or self._exchange is None:
            return False
        refusal = await self._client.refused(self._exchange, response.status_code, response.headers, content)
        self._client.end(self._exchange)
        return await self._turns.may_try_again(refusal)


class _Watched:
    """A stream's bytes on their way to the application."""

    def __init__(self, auth: MarketAuth, exchange: Exchange) -> None:
        self._auth = auth
        self._exchange = exchange
        self._lines = Lines()
        self._has_final = False
        self._is_admitted = False

    async def _feed(self, chunk: bytes) -> None:
        """Raises ReceiptRejected, ProviderFailed."""
        client, exchange = self._auth.client, self._exchange
        if not self._is_admitted:
            self._is_admitted = True
            client.admitted(exchange)
        try:
            for item in exchange.stream.feed(self._lines.feed(chunk)):
                if isinstance(item, Signed):
                    await self._auth.accept(exchange, item)
                    self._has_final = item.message.final
                elif isinstance(item, Exposure):
                    client.note(item)
        except ReceiptRejected as error:
            raise self._auth.reject(exchange, error) from error

    def _check_end(self) -> None:
        if not self._has_final and self._exchange.stream.failure is None:
            raise ProviderFailed("the answer ended without its final receipt")


class _SyncWatched(_Watched, httpx.SyncByteStream):
    def __init__(self, inner: Any, auth: MarketAuth, exchange: Exchange) -> None:
        super().__init__(auth, exchange)
        self._inner: httpx.SyncByteStream = inner

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inner:
            self._auth.call(self._feed(chunk))
            yield chunk
        self._check_end()

    def close(self) -> None:
        """The application has read enough."""
        self._inner.close()
        self._auth.call(self._auth.end(self._exchange))


class _AsyncWatched(_Watched, httpx.AsyncByteStream):
    def __init__(self, inner: Any, auth: MarketAuth, exchange: Exchange) -> None:
        super().__init__(auth, exchange)
        self._inner: httpx.AsyncByteStream = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            await self._auth.acall(self._feed(chunk))
            yield chunk
        self._check_end()

    async def aclose(self) -> None:
        """The application has read enough."""
        await self._inner.aclose()
        await self._auth.acall(self._auth.end(self._exchange))


def is_stream(response: httpx.Response) -> bool:
    """Whether an answer comes as server-sent events."""
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")
