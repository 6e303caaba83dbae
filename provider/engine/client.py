"""The host's side of the engine: keeps the process running and turns its frames into async streams."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from provider.backend import Done, GenerationRequest, Prompt, Token
from provider.engine import frames
from provider.engine.errors import EngineCrashed, EngineError, EngineStartError
from provider.engine.expecting import (
    CountFrame,
    EmbedFrames,
    Expected,
    GenerationFrames,
    Item,
    RenderFrame,
    Reply,
    Started,
    TokenizeFrame,
)
from provider.engine.host import EngineHost, EngineSettings
from provider.engine.process import Connection, launch

__all__ = ["EngineClient", "EngineGeneration", "EngineSettings"]

_log = logging.getLogger(__name__)
RESTART_DELAYS_S = (0.1, 0.5, 2.0, 10.0)


class EngineGeneration:
    """A running request: iterate for `Token`s, ending with one `Done`; raises EngineError when it fails."""

    def __init__(self, connection: Connection, request_id: int, expected: Expected) -> None:
        self._connection = connection
        self._id = request_id
        self._expected = expected
        self._items: asyncio.Queue[Item | EngineError] = asyncio.Queue()
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None

    @property
    def left(self) -> int:
        """How many frames may still come; no more than that are ever kept."""
        return self._expected.left

    def push(self, frame: frames.Frame) -> None:
        """Called by the connection for every frame of this request. Raises FrameError."""
        self._items.put_nowait(self._expected.read(frame))

    def fail(self, error: EngineError) -> None:
        """Called by the connection when the engine has gone."""
        self._items.put_nowait(error)

    async def send(self, frame: frames.Frame) -> None:
        """Sends the request itself. Raises EngineCrashed, GenerationError."""
        try:
            await self._connection.send({**frame, "id": self._id})
        except EngineError:
            self.forget()
            raise

    def forget(self) -> None:
        """Drops later frames."""
        self._connection.forget(self._id)

    async def pause(self) -> None:
        """Stops decoding; tokens already on their way still come."""
        await self._connection.send({"op": "pause", "id": self._id})

    async def resume(self) -> None:
        """Goes on after `pause`."""
        await self._connection.send({"op": "resume", "id": self._id})

    async def cancel(self) -> None:
        """Asks for an early end; the stream still ends with a `Done`."""
        with contextlib.suppress(EngineError):
            await self._connection.send({"op": "cancel", "id": self._id})

    async def __aiter__(self) -> AsyncIterator[Token | Done]:
        try:
            while True:
                match await self.next_item():
                    case Started() as started:
                        self.prompt_tokens, self.cached_tokens = started.prompt_tokens, started.cached_tokens
                    case Token() as token:
                        yield token
                    case Done() as done:
                        yield done
                        return
        finally:
            self.forget()

    async def next_item(self) -> Item:
        """What comes next for this request; raises the EngineError that ended it."""
        item = await self._items.get()
        if isinstance(item, EngineError):
            raise item
        return item

    async def next_value(self) -> Any:
        """The value of the next reply. Raises EngineError."""
        item = await self.next_item()
        return item.value if isinstance(item, Reply) else None


class EngineClient:
    """Starts the engine and keeps it running until `stop`."""

    def __init__(self, settings: EngineSettings, host: EngineHost) -> None:
        self._settings = settings
        self._host = host
        self._ids = itertools.count(1)
        self._folder: TemporaryDirectory[str] | None = None
        self._connection: Connection | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.model: dict[str, Any] = {}
        self.restarts = 0

    @property
    def is_ready(self) -> bool:
        """Whether a request would be taken at once."""
        return self._connection is not None and self._connection.is_open

    @property
    def pid(self) -> int | None:
        """The engine process, if it runs."""
        return self._connection.engine.pid if self._connection and self._connection.is_open else None

    async def start(self) -> None:
        """Starts the engine and waits until it serves. Raises EngineStartError, OSError."""
        self._folder = self._host.new_folder()
        self._connection = await self._launch(Path(self._folder.name))
        self._supervisor = asyncio.create_task(self._supervise(self._connection, Path(self._folder.name)))

    async def stop(self) -> None:
        """Ends the engine; requests still running fail with EngineCrashed."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor:
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor
        if self._connection:
            with contextlib.suppress(EngineError):
                await self._connection.send({"op": "shutdown"})
            await self._connection.close()
            self._connection = None
        if self._folder:
            self._folder.cleanup()

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self.model["context"])

    @property
    def has_tools(self) -> bool:
        """Whether the chat template writes tools into the prompt."""
        return bool(self.model["has_tools"])

    @property
    def dimensions(self) -> int:
        """Components of an embedding."""
        return int(self.model["dimensions"])

    async def count(self, prompt: Prompt) -> int:
        """Tokens of the prompt as the model will read it. Raises EngineError."""
        return int(await self._ask({"op": "count", "prompt": _prompt(prompt)}, CountFrame()))

    async def render(self, prompt: Prompt) -> str:
        """The prompt as text, without the start token that servers add themselves. Raises EngineError."""
        return str(await self._ask({"op": "render", "prompt": _prompt(prompt)}, RenderFrame()))

    async def tokenize(self, text: str) -> list[tuple[int, bytes]]:
        """The text's tokens with their bytes, no special ones; some models begin with a space. Raises EngineError."""
        found = await self._ask({"op": "tokenize", "text": text}, TokenizeFrame(len(text.encode(errors="replace"))))
        return list(found)

    async def embed(self, prompts: list[Prompt]) -> list[list[float]]:
        """One vector of unit length for each prompt: the mean over its tokens. Raises EngineError."""
        expected = EmbedFrames(len(prompts), self.dimensions)
        async with self._request({"op": "embed", "prompts": list(map(_prompt, prompts))}, expected) as generation:
            vectors = [await generation.next_value() for _ in prompts]
            await generation.next_value()
            return vectors

    async def generate(self, request: GenerationRequest) -> EngineGeneration:
        """Starts a generation. Raises EngineCrashed if the engine cannot be reached; later errors come by iteration."""
        generation = self._register(GenerationFrames(min(request.max_tokens, self.context), request.logprobs))
        await generation.send({"op": "generate", **asdict(request), "prompt": _prompt(request.prompt)})
        return generation

    async def _ask(self, frame: frames.Frame, expected: Expected) -> Any:
        async with self._request(frame, expected) as generation:
            return await generation.next_value()

    @contextlib.asynccontextmanager
    async def _request(self, frame: frames.Frame, expected: Expected) -> AsyncIterator[EngineGeneration]:
        generation = self._register(expected)
        try:
            await generation.send(frame)
            yield generation
        except asyncio.CancelledError:
            await generation.cancel()
            raise
        finally:
            generation.forget()

    def _register(self, expected: Expected) -> EngineGeneration:
        if self._connection is None or not self._connection.is_open:
            raise EngineCrashed("the engine is restarting")
        request_id = next(self._ids)
        generation = EngineGeneration(self._connection, request_id, expected)
        self._connection.register(request_id, generation)
        return generation

    async def _supervise(self, connection: Connection, folder: Path) -> None:
        while True:
            lived_from = asyncio.get_running_loop().time()
            await connection.dispatch(self._settings.hang_s)
            _log.warning("the engine of %s is started again: %s", self._settings.model.name, await connection.close())
            connection = await self._restart(asyncio.get_running_loop().time() - lived_from, folder)

    async def _restart(self, lived_s: float, folder: Path) -> Connection:
        attempt = 0 if lived_s > RESTART_DELAYS_S[-1] else min(self.restarts, len(RESTART_DELAYS_S) - 1)
        while True:
            await asyncio.sleep(RESTART_DELAYS_S[attempt])
            self.restarts += 1
            try:
                self._connection = await self._launch(folder)
            except (EngineStartError, OSError) as error:
                _log.warning("the engine does not restart: %s", error)
                attempt = min(attempt + 1, len(RESTART_DELAYS_S) - 1)
            else:
                return self._connection

    async def _launch(self, folder: Path) -> Connection:
        connection = await launch(self._settings, self._host, folder)
        self.model = connection.model
        return connection


def _prompt(prompt: Prompt) -> dict[str, Any]:
    return {key: value for key, value in vars(prompt).items() if value is not None}
