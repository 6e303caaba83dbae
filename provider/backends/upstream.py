"""Streams from an OpenAI-compatible server, which is trusted with nothing: lines, bytes and waiting are bounded."""

import json
import logging
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from protocol.keystore import Password
from provider.config import BackendSection
from provider.engine.errors import EngineStartError, GenerationError

_log = logging.getLogger(__name__)
MAX_LINE_BYTES = 256 * 1024
MAX_LIST_BYTES = 4 * 1024 * 1024
BYTES_PER_TOKEN = 16 * 1024
"""Of the stream, its JSON and log-probabilities included."""
CONNECT_S = 10.0
CHECK_S = 20.0
_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_DATA = b"data:"


@dataclass(frozen=True)
class UpstreamToken:
    """A token as the server writes it, its log-probability in nats, and the likeliest at its place."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """A piece of an answer; `tokens` is empty where the server does not say them."""

    text: str
    tokens: tuple[UpstreamToken, ...] = ()
    finish_reason: str | None = None


class Upstream:
    """One model on somebody's server."""

    def __init__(self, section: BackendSection, key: Password | None) -> None:
        self._section = section
        self._http = httpx.AsyncClient(
            base_url=section.url.rstrip("/") + "/",
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key.reveal()}"} if key else {})},
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            follow_redirects=False,
            trust_env=False,
        )

    async def check(self) -> None:
        """Raises EngineStartError unless the server can be reached and has the model."""
        where = f"the server {self._section.url}"
        try:
            async with self._http.stream("GET", "models", timeout=CHECK_S) as response:
                _check_status(response)
                body = b""
                async for block in response.aiter_raw():
                    body += block
                    if len(body) > MAX_LIST_BYTES:
                        raise EngineStartError("upstream", f"{where} sends an endless list of models")
            names = [str(entry["id"]) for entry in json.loads(body)["data"]]
        except httpx.HTTPError as error:
            raise EngineStartError("upstream", f"{where} cannot be reached: {type(error).__name__}") from error
        except GenerationError as error:
            raise EngineStartError("upstream", f"{where} gives no list of models: {error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise EngineStartError("upstream", f"{where} gives no readable list of models at /models") from error
        if self._section.model not in names:
            known = ", ".join(names[:10]) or "none"
            raise EngineStartError("upstream", f"{where} has no model {self._section.model}; it has {known}")

    async def stream(self, path: str, body: dict[str, Any], max_tokens: int) -> AsyncIterator[Delta]:
        """An answer, as it comes; the last delta has a finish reason. Raises GenerationError."""
        allowed = MAX_LINE_BYTES + BYTES_PER_TOKEN * (max_tokens + 64)
        request = {"model": self._section.model, "stream": True, "max_tokens": max_tokens, **body}
        try:
            async with self._http.stream("POST", path, json=request) as response:
                _check_status(response)
                async for line in _lines(response, allowed):
                    if not line.startswith(_DATA):
                        continue
                    content = line.removeprefix(_DATA).strip()
                    if content == b"[DONE]":
                        yield Delta("", finish_reason="stop")
                        return
                    delta = parse_chunk(content)
                    yield delta
                    if delta.finish_reason is not None:
                        return
        except httpx.HTTPError as error:
            _log.warning("the server %s failed: %s", self._section.url, type(error).__name__)
            raise GenerationError("engine_failed", "the server behind this offer failed") from error
        raise GenerationError("engine_failed", "the server behind this offer ended the answer early")

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()


def parse_chunk(content: bytes) -> Delta:
    """One chunk of either kind of stream. Raises GenerationError."""
    try:
        chunk = json.loads(content)
        if chunk.get("error"):
            raise _nonsense("an error")
        choices = chunk["choices"]
        if not choices:
            return Delta("")
        choice = choices[0]
        text = choice["text"] if "text" in choice else (choice.get("delta") or {}).get("content")
        reason = choice.get("finish_reason")
        tokens = tuple(_tokens(choice.get("logprobs") or {}))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _nonsense("something unreadable") from error
    if not isinstance(text, str | None) or not isinstance(reason, str | None):
        raise _nonsense("something unreadable")
    return Delta(_well_formed(text or ""), tokens, reason or None)


def _tokens(logprobs: dict[str, Any]) -> list[UpstreamToken]:
    """Both shapes: lists side by side of plain completions, and a list of objects of chat completions."""
    if isinstance(content := logprobs.get("content"), list):
        return [
            UpstreamToken(
                str(entry["token"]),
                _logprob(entry["logprob"]),
                tuple((str(top["token"]), _logprob(top["logprob"])) for top in (entry.get("top_logprobs") or [])[:20]),
            )
            for entry in content
        ]
    texts, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    return [
        UpstreamToken(
            str(text),
            _logprob(value),
            tuple((str(name), _logprob(of_top)) for name, of_top in list((top or {}).items())[:20]),
        )
        for text, value, top in zip(texts, values, tops, strict=True)
    ]


def _logprob(value: Any) -> float:
    """In nats, at most 0; minus infinity where it is not stated."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -math.inf
    return min(number, 0.0) if math.isfinite(number) else -math.inf


def _well_formed(text: str) -> str:
    """JSON can spell lone surrogates, which are no text."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _nonsense(what: str) -> GenerationError:
    return GenerationError("engine_failed", f"the server behind this offer sent {what}")


def _check_status(response: httpx.Response) -> None:
    if response.status_code in _BUSY:
        raise GenerationError("overloaded", "the server behind this offer is busy: try again later")
    if response.status_code != httpx.codes.OK:
        _log.warning("the server %s answers with status %d", response.url.host, response.status_code)
        raise GenerationError("engine_failed", f"the server behind this offer answers with {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _nonsense("compressed text that was not asked for")


async def _lines(response: httpx.Response, allowed: int) -> AsyncIterator[bytes]:
    held = b""
    async for block in response.aiter_raw():
        allowed -= len(block)
        if allowed < 0:
            raise _nonsense("far more than was asked for")
        *lines, held = (held + block).split(b"\n")
        if max(map(len, (*lines, held))) > MAX_LINE_BYTES:
            raise _nonsense("a line without an end")
        for line in lines:
            yield line.rstrip(b"\r")
