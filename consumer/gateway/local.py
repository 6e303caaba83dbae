"""Model files of this machine as routes: `local/<name>`, each served by a process of its own once it is asked for."""

import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from consumer.exceptions import TokenizerUnusable
from consumer.gateway import local_child
from consumer.gateway.app_request import CHAT, COMPLETIONS, EMBEDDINGS
from consumer.gateway.continuing import as_chat, plain_messages
from consumer.gateway.errors import bad_request
from consumer.gateway.events import Asked, Chunk, Delivered, FailureClass, Part, RouteFailed
from consumer.gateway.local_child import KEY, PARENT, SOCKET
from consumer.gateway.settings import LocalSettings
from consumer.gateway.upstream_entries import deliver
from consumer.gateway.upstream_server import OpenAIServer
from consumer.tokenizer import PromptCounter
from protocol.keystore import Password

START_S = 120.0
_BACKLOG = 128
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
"""All that the process gets to see of ours: passwords and keys are none of its business."""
_KEPT = ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty")


class Locals:
    """All of them."""

    def __init__(self, settings: Mapping[str, LocalSettings], idle_s: float) -> None:
        self._models = {name: _LocalModel(name, one, idle_s) for name, one in settings.items()}

    def models(self) -> list[str]:
        """Their names."""
        return list(self._models)

    async def answer(self, asked: Asked, delivered: Delivered, name: str) -> AsyncGenerator[Part, None]:
        """The answer, or what goes on after `delivered`, which grows with it. Raises RouteFailed."""
        model = self._models.get(name)
        if model is None:
            raise bad_request(f"there is no model local/{name}", code="model_not_found", status=404)
        parts = model.answer(asked, delivered)
        async with aclosing(parts):
            async for part in parts:
                yield part

    async def close(self) -> None:
        """Ends all processes."""
        await asyncio.gather(*(model.close() for model in self._models.values()))


class _LocalModel:
    def __init__(self, name: str, settings: LocalSettings, idle_s: float) -> None:
        self._name = name
        self._route = f"local/{name}"
        self._settings = settings
        self._idle_s = idle_s
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._server: OpenAIServer | None = None
        self._counter: PromptCounter | None = None

    async def answer(self, asked: Asked, delivered: Delivered) -> AsyncGenerator[Part, None]:
        if asked.path == EMBEDDINGS or asked.content.get("logprobs"):
            what = "embeddings" if asked.path == EMBEDDINGS else "log-probabilities"
            raise bad_request(f"{self._route} gives no {what}", code="unsupported_parameter")
        server, counter = await self._ready()
        path, body = self._request(asked, delivered, counter)
        prompt_tokens = self._count(path, body, counter)
        if prompt_tokens >= self._settings.context:
            message = f"the prompt has {prompt_tokens} tokens, {self._route} has room for {self._settings.context}"
            raise bad_request(message, code="context_length_exceeded")
        delivered.tokens, delivered.tokenizer_sha256 = [], ""
        is_converted = path != asked.path
        parts = server.answer(self._route, path, {**body, "model": self._name}, prompt_tokens)
        try:
            async with aclosing(parts):
                async for part in parts:
                    if isinstance(part, Chunk):
                        deliver(delivered, part)
                        if is_converted:
                            part = Chunk([as_chat(entry) for entry in part.entries])  # noqa: PLW2901
                    yield part
        except RouteFailed as failed:
            if failed.failure is FailureClass.UNREACHABLE:
                await self._gone(server)
            raise

    async def close(self) -> None:
        async with self._starting:
            await self._stop()
            if self._counter is not None:
                self._counter.close()
                self._counter = None

    async def _ready(self) -> tuple[OpenAIServer, PromptCounter]:
        async with self._starting:
            if self._counter is None:
                try:
                    self._counter = await asyncio.to_thread(PromptCounter, self._settings.path)
                except TokenizerUnusable as error:
                    raise self._failed(str(error)) from error
            if self._server is None or self._process is None or self._process.returncode is not None:
                await self._stop()
                self._server = await self._start()
            return self._server, self._counter

    async def _start(self) -> OpenAIServer:
        key = secrets.token_urlsafe(32)
        with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listening:
            port, number = listening.getsockname()[1], listening.fileno()
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            options = (
                self._name,
                str(self._settings.path),
                str(self._settings.context),
                str(self._settings.threads or 0),
            )
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                local_child.__file__,
                *options,
                env={**environment, SOCKET: str(number), KEY: key, PARENT: str(os.getpid())},
                pass_fds=[number],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        server = OpenAIServer(f"http://127.0.0.1:{port}/v1", Password(key), self._idle_s)
        has_ended = asyncio.ensure_future(self._process.wait())
        answers = asyncio.ensure_future(server.answers(START_S))
        is_up = False
        try:
            await asyncio.wait({has_ended, answers}, return_when=asyncio.FIRST_COMPLETED)
            is_up = answers.done() and answers.result()
        finally:
            has_ended.cancel()
            answers.cancel()
            if not is_up:
                await server.close()
                await self._stop()
        if not is_up:
            raise self._failed("its process does not start")
        return server

    async def _gone(self, server: OpenAIServer) -> None:
        """Its process broke off: the next question gets another."""
        async with self._starting:
            if self._server is server:
                await self._stop()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.close()
            self._server = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    def _request(self, asked: Asked, delivered: Delivered, counter: PromptCounter) -> tuple[str, dict[str, Any]]:
        if not delivered.text:
            return asked.path, asked.content
        content = asked.content
        try:
            prompt = counter.render(plain_messages(content["messages"])) if asked.path == CHAT else content["prompt"]
            used = counter.count_text(delivered.text)
        except Exception as error:
            raise bad_request("this prompt cannot be rendered here", code="invalid_type", param="messages") from error
        limit = content.get("max_completion_tokens") or content.get("max_tokens")
        left = max(1, limit - used) if isinstance(limit, int) else None
        body = {name: content[name] for name in _KEPT if content.get(name) is not None}
        return COMPLETIONS, {**body, "prompt": f"{prompt}{delivered.text}", "max_tokens": left}

    def _count(self, path: str, body: dict[str, Any], counter: PromptCounter) -> int:
        """Tokens of the prompt; 0 where it is of a kind that only the server can make sense of."""
        try:
            return (
                counter.count(plain_messages(body["messages"]))
                if path == CHAT
                else counter.count_prompt(body["prompt"])
            )
        except Exception:  # noqa: BLE001 - templates raise whatever they like
            return 0

    def _failed(self, reason: str) -> RouteFailed:
        return RouteFailed(FailureClass.UNREACHABLE, f"{self._route} cannot be used: {reason}")
