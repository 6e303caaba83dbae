"""The client library of the gateway: five lines to a first answer.

    from consumer.client import Client

    with Client() as client:
        answer = client.ask("Why is the sky blue?")
        print(answer.text, answer.cost)

Address and key are arguments, or the variables CLAWMARKET_URL and CLAWMARKET_API_KEY.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import httpx

from consumer.client_answer import Answer, GatewayError, Gathering, Usage, check, route_of, unreachable, whole_answer

__all__ = ["DEFAULT_URL", "Answer", "AsyncClient", "AsyncStream", "Client", "GatewayError", "Stream", "Usage"]

URL_VARIABLE, KEY_VARIABLE = "CLAWMARKET_URL", "CLAWMARKET_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8411/v1"
CONNECT_S, READ_S = 5.0, 600.0
Question = str | list[dict[str, Any]]
"""A question, or a whole conversation as OpenAI's messages."""


class Stream:
    """An answer's text as it comes; `answer` is the whole once it has ended."""

    def __init__(self, lines: Iterator[str], route: str = "") -> None:
        self._lines = lines
        self._gathering = Gathering(route)

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            if text := self._gathering.push(line):
                yield text

    @property
    def route(self) -> str:
        """Which one gave the text that came last."""
        return self._gathering.route

    @property
    def answer(self) -> Answer:
        """Raises GatewayError before the end."""
        return self._gathering.answer()


class AsyncStream:
    """An answer's text as it comes; `answer` is the whole once it has ended."""

    def __init__(self, lines: AsyncIterator[str], route: str = "") -> None:
        self._lines = lines
        self._gathering = Gathering(route)

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in self._lines:
            if text := self._gathering.push(line):
                yield text

    @property
    def route(self) -> str:
        """Which one gave the text that came last."""
        return self._gathering.route

    @property
    def answer(self) -> Answer:
        """Raises GatewayError before the end."""
        return self._gathering.answer()


class Client:
    """A gateway, asked in turn. Everything raises GatewayError."""

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        self._url, headers = _place(url, key)
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(READ_S, connect=CONNECT_S), trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes connections."""
        self._http.close()

    def ask(self, question: Question, model: str = "auto", **options: Any) -> Answer:
        """One answer; `options` are those of OpenAI's chat completions, such as max_tokens."""
        return whole_answer(self._send("POST", "/v1/chat/completions", _chat(question, model, options)))

    @contextmanager
    def stream(self, question: Question, model: str = "auto", **options: Any) -> Generator[Stream, None, None]:
        """The same as it comes. Leaving the block cancels."""
        body = _streamed(question, model, options)
        try:
            with self._http.stream("POST", f"{self._url}/v1/chat/completions", json=body) as response:
                if not response.is_success:
                    response.read()
                yield Stream(check(response).iter_lines(), route_of(response))
        except httpx.HTTPError as error:
            raise unreachable(error, self._url) from error

    def embed(self, texts: str | list[str], model: str = "auto") -> list[list[float]]:
        """A vector for each text."""
        return _vectors(self._send("POST", "/v1/embeddings", {"model": model, "input": texts}))

    def models(self) -> list[str]:
        """The names that can be asked for."""
        return [entry["id"] for entry in self._send("GET", "/v1/models").json()["data"]]

    def explain(self, question: Question, model: str = "auto", **options: Any) -> dict[str, Any]:
        """Which routes would be tried, and why; nothing is asked of them."""
        explained: dict[str, Any] = self._send("POST", "/gateway/explain", _chat(question, model, options)).json()
        return explained

    def status(self) -> dict[str, Any]:
        """Routes, leases, budgets and the last requests."""
        status: dict[str, Any] = self._send("GET", "/gateway/status").json()
        return status

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return check(self._http.request(method, self._url + path, json=body))
        except httpx.HTTPError as error:
            raise unreachable(error, self._url) from error


class AsyncClient:
    """A gateway, asked at once. Everything raises GatewayError."""

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        self._url, headers = _place(url, key)
        self._http = httpx.AsyncClient(
            headers=headers, timeout=httpx.Timeout(READ_S, connect=CONNECT_S), trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes connections."""
        await self._http.aclose()

    async def ask(self, question: Question, model: str = "auto", **options: Any) -> Answer:
        """One answer; `options` are those of OpenAI's chat completions, such as max_tokens."""
        return whole_answer(await self._send("POST", "/v1/chat/completions", _chat(question, model, options)))

    @asynccontextmanager
    async def stream(
        self, question: Question, model: str = "auto", **options: Any
    ) -> AsyncGenerator[AsyncStream, None]:
        """The same as it comes. Leaving the block cancels."""
        body = _streamed(question, model, options)
        try:
            async with self._http.stream("POST", f"{self._url}/v1/chat/completions", json=body) as response:
                if not response.is_success:
                    await response.aread()
                yield AsyncStream(check(response).aiter_lines(), route_of(response))
        except httpx.HTTPError as error:
            raise unreachable(error, self._url) from error

    async def embed(self, texts: str | list[str], model: str = "auto") -> list[list[float]]:
        """A vector for each text."""
        return _vectors(await self._send("POST", "/v1/embeddings", {"model": model, "input": texts}))

    async def models(self) -> list[str]:
        """The names that can be asked for."""
        return [entry["id"] for entry in (await self._send("GET", "/v1/models")).json()["data"]]

    async def explain(self, question: Question, model: str = "auto", **options: Any) -> dict[str, Any]:
        """Which routes would be tried, and why; nothing is asked of them."""
        body = _chat(question, model, options)
        explained: dict[str, Any] = (await self._send("POST", "/gateway/explain", body)).json()
        return explained

    async def status(self) -> dict[str, Any]:
        """Routes, leases, budgets and the last requests."""
        status: dict[str, Any] = (await self._send("GET", "/gateway/status")).json()
        return status

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return check(await self._http.request(method, self._url + path, json=body))
        except httpx.HTTPError as error:
            raise unreachable(error, self._url) from error


def _place(url: str | None, key: str | None) -> tuple[str, dict[str, str]]:
    """The address without `/v1`, and the headers that go with every request."""
    found = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    secret = key or os.environ.get(KEY_VARIABLE) or ""
    return found.rstrip("/").removesuffix("/v1"), {"Authorization": f"Bearer {secret}"} if secret else {}


def _chat(question: Question, model: str, options: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return {"model": model, "messages": messages, **options}


def _streamed(question: Question, model: str, options: dict[str, Any]) -> dict[str, Any]:
    return {**_chat(question, model, options), "stream": True, "stream_options": {"include_usage": True}}


def _vectors(response: httpx.Response) -> list[list[float]]:
    return [entry["embedding"] for entry in response.json()["data"]]
