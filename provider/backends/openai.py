"""A backend that asks an OpenAI-compatible server: llama-server, vLLM, Ollama and others.

Prompts are rendered and counted by the model file's own template and tokenizer, and so is what comes back: the server's
figures are never billed.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from protocol.keystore import Password
from provider.backend import Done, GenerationRequest, Prompt, Token
from provider.backends.upstream import Delta, Upstream
from provider.backends.wording import Tokens, Wording
from provider.config import BackendSection
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.errors import GenerationError
from provider.engine.host import EngineHost
from provider.engine.text import StopText

FIRST_S = 300.0
NEXT_S = 60.0
"""How long the first piece of an answer, and each after it, may take; a pause of ours does not count."""


class OpenAIBackend:
    """One model on another server. The file's vocabulary is loaded here, its weights are not."""

    def __init__(
        self, section: BackendSection, key: Password | None, settings: EngineSettings, host: EngineHost
    ) -> None:
        """`settings` name the file that the terms promise, and the context they promise; it is counted in `host`."""
        self._section = section
        self._context = settings.context
        self._vocabulary = EngineClient(replace(settings, threads=1, parallel=1, vocabulary_only=True), host)
        self._upstream = Upstream(section, key)
        self._known: dict[str, Tokens] = {}

    @property
    def restarts(self) -> int:
        """How often our part of it, the vocabulary, was started again; of the other server nothing is known."""
        return self._vocabulary.restarts

    @property
    def is_ready(self) -> bool:
        """Whether tokens can be counted; whether the server answers is seen by asking it."""
        return self._vocabulary.is_ready

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        return self._context

    @property
    def has_tools(self) -> bool:
        """Tools are written into the prompt, so they need plain completions."""
        return self._section.api == "completions" and self._vocabulary.has_tools

    @property
    def dimensions(self) -> int:
        """As the file says, though other servers are not asked for embeddings."""
        return self._vocabulary.dimensions

    async def start(self) -> None:
        """Raises EngineStartError unless the vocabulary loads and the server has the model."""
        await self._vocabulary.start()
        await self._upstream.check()

    async def stop(self) -> None:
        """Ends running answers' connections and the vocabulary's process."""
        await self._upstream.close()
        await self._vocabulary.stop()

    async def count(self, prompt: Prompt) -> int:
        """Tokens of the prompt by the file's template and tokenizer. Raises EngineError."""
        return await self._vocabulary.count(prompt)

    async def embed(self, prompts: list[Prompt]) -> list[list[float]]:
        """Not offered by other servers. Raises GenerationError."""
        raise GenerationError("bad_request", f"this offer makes no embeddings ({len(prompts)} were asked for)")

    async def generate(self, request: GenerationRequest) -> "OpenAIGeneration":
        """Starts a generation. Raises EngineError; later errors come by iteration."""
        path, body = await self._body(request)
        count = await self._vocabulary.count(request.prompt)
        room = min(request.max_tokens, self._context - count)
        if room < 0:
            raise GenerationError("prompt_too_long", f"the prompt has {count} tokens, the context {self._context}")
        deltas = self._upstream.stream(path, body, room)
        return OpenAIGeneration(deltas, Wording(self._vocabulary.tokenize, self._known), request, count, room)

    async def _body(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        section, prompt = self._section, request.prompt
        if request.logprobs is not None and not section.logprobs:
            raise GenerationError("bad_request", "this offer gives no log-probabilities")
        body: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p}
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        for name in ("frequency_penalty", "presence_penalty"):
            if value := getattr(request, name):
                body[name] = value
        if section.api == "completions":
            if request.output is not None:
                raise GenerationError("bad_request", "this offer cannot hold answers to a schema")
            if section.logprobs:
                body["logprobs"] = request.logprobs or 0
            body["prompt"] = prompt.tokens if prompt.tokens is not None else await self._vocabulary.render(prompt)
            return "completions", body
        if prompt.messages is None:
            raise GenerationError("bad_request", "this offer answers chats only")
        if prompt.tools:
            raise GenerationError("bad_request", "this offer takes no tools")
        if section.logprobs:
            body |= {"logprobs": True, "top_logprobs": request.logprobs or 0}
        if request.output is not None:
            if request.output.before or request.output.after:
                raise GenerationError("bad_request", "this offer takes no tools")
            schema = {"name": "answer", "schema": request.output.schema}
            body["response_format"] = (
                {"type": "json_schema", "json_schema": schema} if request.output.schema else {"type": "json_object"}
            )
        return "chat/completions", {**body, "messages": prompt.messages}


class OpenAIGeneration:
    """A running request. The server is read only as far as tokens are asked for: while none are, TCP holds it back."""

    def __init__(
        self, deltas: AsyncIterator[Delta], wording: Wording, request: GenerationRequest, prompt_tokens: int, room: int
    ) -> None:
        self._deltas = deltas
        self._wording = wording
        self._room = room
        self._text = StopText(list(request.stop))
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._reading: asyncio.Future[Delta] | None = None
        self._is_cancelled = False
        self.prompt_tokens: int | None = prompt_tokens
        self.cached_tokens: int | None = 0

    async def pause(self) -> None:
        """Stops reading from the server."""
        self._resumed.clear()

    async def resume(self) -> None:
        """Reads on."""
        self._resumed.set()

    async def cancel(self) -> None:
        """Closes the connection to the server; the stream still ends with a `Done`."""
        self._is_cancelled = True
        self._resumed.set()
        if self._reading is not None:
            self._reading.cancel()

    async def __aiter__(self) -> AsyncIterator[Token | Done]:
        began, first, count, reason = time.monotonic(), 0.0, 0, ""
        async with aclosing(self._deltas):  # type: ignore[type-var]
            while not reason:
                await self._resumed.wait()
                delta = await self._next(NEXT_S if first else FIRST_S)
                if delta is None:
                    reason = "cancelled"
                    break
                for worded in await self._wording.push(delta):
                    if count == self._room:
                        reason = "length"
                        break
                    first = first or time.monotonic()
                    count += 1
                    text = self._text.push(worded.piece)
                    yield Token(worded.token, text, worded.logprob, worded.piece, worded.top)
                    if self._is_cancelled or self._text.stopped:
                        reason = "cancelled" if self._is_cancelled else "stop"
                        break
                if not reason and delta.finish_reason is not None:
                    reason = "length" if delta.finish_reason in ("length", "max_tokens") else "stop"
        now = time.monotonic()
        yield Done(
            finish_reason=reason,
            text=self._text.finish(),
            prompt_tokens=self.prompt_tokens or 0,
            cached_tokens=0,
            generated_tokens=count,
            queue_ms=0,
            prompt_ms=round(((first or now) - began) * 1000),
            generate_ms=round((now - (first or now)) * 1000),
        )

    async def _next(self, timeout_s: float) -> Delta | None:
        """The next delta with text or an end; None once cancelled. Raises GenerationError when it takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_cancelled:
                    self._reading = asyncio.ensure_future(anext(self._deltas))
                    delta = await self._reading
                    if delta.text or delta.finish_reason is not None:
                        return delta
        except TimeoutError as error:
            raise GenerationError("engine_failed", "the server behind this offer stopped answering") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._is_cancelled or (task is not None and task.cancelling()):
                raise
        finally:
            if self._reading is not None and not self._reading.done():
                self._reading.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await self._reading
        return None
