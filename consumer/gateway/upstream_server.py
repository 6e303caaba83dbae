"""One OpenAI-compatible server, which is trusted with nothing: lines, bytes and waiting are bounded."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx

from consumer.gateway.app_request import CHAT, EMBEDDINGS, read_json
from consumer.gateway.events import Chunk, Leg, Part, RouteFailed, Vectors
from consumer.gateway.upstream_entries import check_entry
from consumer.gateway.upstream_failures import nonsense, refused, said, silent
from protocol.keystore import Password

CONNECT_S = 10.0
FIRST_S = 300.0
"""For the first piece: a long prompt on a slow machine takes its time."""
MAX_LINE_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 256 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024


class OpenAIServer:
    """`url` is its base URL, `/v1` included where it has that."""

    def __init__(self, url: str, key: Password | None, idle_s: float, first_s: float = FIRST_S) -> None:
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/") + "/",
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key.reveal()}"} if key else {})},
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            follow_redirects=False,
            trust_env=False,
        )
        self._idle_s = idle_s
        self._first_s = first_s

    async def answer(
        self, route: str, path: str, body: dict[str, Any], prompt_tokens: int = 0
    ) -> AsyncGenerator[Part, None]:
        """Chunks or vectors, then the leg; `prompt_tokens` counts where the server says nothing.

        Raises RouteFailed, with the leg if anything had come.
        """
        tally = _Tally(route, prompt_tokens)
        try:
            async with aclosing(self._parts(tally, path, body)) as parts:
                async for part in parts:
                    yield part
        except (httpx.HTTPError, TimeoutError) as error:
            failed = silent(route, error)
            failed.leg = tally.leg(failed.failure.value) if tally.first_at else None
            raise failed from error
        except RouteFailed as failed:
            failed.leg = tally.leg(failed.failure.value) if tally.first_at else None
            raise
        yield tally.leg("finished")

    async def answers(self, timeout_s: float) -> bool:
        """Whether its list of models can be read."""
        try:
            return (await self._http.get("models", timeout=timeout_s)).is_success
        except httpx.HTTPError:
            return False

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def _parts(self, tally: "_Tally", path: str, body: dict[str, Any]) -> AsyncGenerator[Part, None]:
        if path != EMBEDDINGS:
            body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        request = self._http.build_request("POST", path.removeprefix("/v1/"), json=body)
        async with asyncio.timeout(self._first_s):
            response = await self._http.send(request, stream=True)
        try:
            await self._check_status(tally.route, response)
            if path == EMBEDDINGS:
                yield await self._vectors(tally, response)
            else:
                async with aclosing(self._chunks(tally, response, is_chat=path == CHAT)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        finally:
            await response.aclose()

    async def _check_status(self, route: str, response: httpx.Response) -> None:
        if response.status_code != httpx.codes.OK:
            content = await self._bounded(route, response, MAX_ERROR_BYTES)
            raise refused(route, response.status_code, response.headers, content)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise nonsense(route, "compressed text that was not asked for")

    async def _vectors(self, tally: "_Tally", response: httpx.Response) -> Vectors:
        content = await self._bounded(tally.route, response, MAX_ANSWER_BYTES)
        try:
            answer = read_json(content)
            data = answer["data"]
            if not isinstance(data, list) or not all(isinstance(entry["embedding"], list | str) for entry in data):
                raise ValueError("no vectors")  # noqa: TRY301 - one way out for all that is malformed
            tally.take_usage(answer.get("usage"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise nonsense(tally.route, "something that is no list of vectors") from error
        tally.first_at = time.monotonic()
        return Vectors(data)

    async def _chunks(self, tally: "_Tally", response: httpx.Response, *, is_chat: bool) -> AsyncGenerator[Part, None]:
        open_choices, seen = set[int](), set[int]()
        async with aclosing(self._events(tally, response)) as events:
            async for event in events:
                if event == b"[DONE]":
                    break
                entries = _entries(tally, event, is_chat=is_chat)
                for entry in entries:
                    tally.first_at = tally.first_at or time.monotonic()
                    tally.pieces += 1
                    seen.add(entry["index"])
                    (open_choices.discard if entry.get("finish_reason") else open_choices.add)(entry["index"])
                if entries:
                    yield Chunk(entries)
        if open_choices or not seen:
            raise nonsense(tally.route, "an answer without its end")

    async def _events(self, tally: "_Tally", response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The data of each event. What an event takes is limited, whatever comments keep the connection awake."""
        lines = _lines(tally.route, response)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._first_s
        async with aclosing(lines):
            while True:
                async with asyncio.timeout_at(deadline):
                    line = await anext(lines, None)
                    while line is not None and not line.startswith(b"data:"):
                        line = await anext(lines, None)
                if line is None:
                    return
                yield line[5:].strip()
                deadline = loop.time() + self._idle_s

    async def _bounded(self, route: str, response: httpx.Response, most: int) -> bytes:
        content = bytearray()
        async with asyncio.timeout(self._first_s):
            async for block in response.aiter_raw():
                content += block
                if len(content) > most:
                    raise nonsense(route, "far more than was asked for")
        return bytes(content)


class _Tally:
    """What one answer took."""

    def __init__(self, route: str, prompt_tokens: int) -> None:
        self.route = route
        self.began = time.monotonic()
        self.first_at = 0.0
        self.pieces = 0
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = 0
        self._completion_tokens: int | None = None

    def take_usage(self, usage: Any) -> None:
        """The server's own figures. Raises ValueError and its like when they are none."""
        if usage is None:
            return
        self._prompt_tokens = max(0, int(usage.get("prompt_tokens") or 0))
        self._completion_tokens = max(0, int(usage.get("completion_tokens") or 0))
        self._cached_tokens = max(0, int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0))

    def leg(self, ended: str) -> Leg:
        """The leg up to now."""
        now = time.monotonic()
        return Leg(
            self.route,
            ended,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=self.pieces if self._completion_tokens is None else self._completion_tokens,
            ttft_ms=round(((self.first_at or now) - self.began) * 1000),
            duration_ms=round((now - self.began) * 1000),
        )


def _entries(tally: _Tally, event: bytes, *, is_chat: bool) -> list[dict[str, Any]]:
    """The choices of one event. Raises RouteFailed."""
    try:
        chunk = read_json(event)
        if error := chunk.get("error"):
            raise said(tally.route, error)
        tally.take_usage(chunk.get("usage"))
        return [check_entry(entry, is_chat=is_chat) for entry in chunk["choices"]]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise nonsense(tally.route, "something unreadable") from error


async def _lines(route: str, response: httpx.Response) -> AsyncGenerator[bytes, None]:
    held, allowed = b"", MAX_ANSWER_BYTES
    async for block in response.aiter_raw():
        allowed -= len(block)
        *lines, held = (held + block).split(b"\n")
        if allowed < 0 or max(map(len, (*lines, held))) > MAX_LINE_BYTES:
            raise nonsense(route, "far more than was asked for")
        for line in lines:
            yield line.rstrip(b"\r")
