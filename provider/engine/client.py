"""The host's side of the engine: starts the process, restarts it when it dies, turns its frames into async streams."""

import asyncio
import contextlib
import itertools
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provider.backend import Done, GenerationRequest, Prompt, Token
from provider.engine import frames
from provider.engine.errors import EngineCrashed, EngineError, EngineStartError, GenerationError

_log = logging.getLogger(__name__)
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0
RESTART_DELAYS_S = (0.1, 0.5, 2.0, 10.0)
STDERR_LINES = 20


@dataclass(frozen=True)
class EngineSettings:
    """How to run the engine. `context` is in tokens per sequence, 0 for the model's own (at most 4096)."""

    model: Path
    threads: int = 1
    parallel: int = 4
    context: int = 0


class EngineGeneration:
    """A running request: iterate for `Token`s, ending with one `Done`; raises EngineError when it fails."""

    def __init__(self, client: "EngineClient", connection: "_Connection", request_id: int) -> None:
        self._client = client
        self._connection = connection
        self._id = request_id
        self._frames: asyncio.Queue[frames.Frame | EngineError] = asyncio.Queue()
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None

    def push(self, item: frames.Frame | EngineError) -> None:
        """Called by the connection for every frame of this request."""
        self._frames.put_nowait(item)

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
                frame = await self.next_frame()
                match frame["ev"]:
                    case "started":
                        self.prompt_tokens = int(frame["prompt_tokens"])
                        self.cached_tokens = int(frame["cached_tokens"])
                    case "token":
                        yield Token(int(frame["token"]), str(frame["text"]), float(frame["logprob"]))
                    case "done":
                        yield Done(**{key: value for key, value in frame.items() if key not in ("ev", "id")})
                        return
        finally:
            self._connection.forget(self._id)

    async def next_frame(self) -> frames.Frame:
        """The next frame of this request; raises the EngineError that ended it."""
        item = await self._frames.get()
        if isinstance(item, EngineError):
            raise item
        if item["ev"] == "error":
            raise GenerationError(str(item["code"]), str(item["message"]))
        return item


class _Connection:
    """One life of the engine process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        errors: "_StderrTail",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._errors = errors
        self._reader = reader
        self._writer = writer
        self._requests: dict[int, EngineGeneration] = {}
        self.is_open = True

    def register(self, request_id: int, generation: EngineGeneration) -> None:
        """Routes frames with this id to `generation`."""
        self._requests[request_id] = generation

    def forget(self, request_id: int) -> None:
        """Drops later frames with this id."""
        self._requests.pop(request_id, None)

    async def send(self, frame: frames.Frame) -> None:
        """Sends one frame. Raises EngineCrashed if the engine is gone."""
        if not self.is_open:
            raise EngineCrashed("the engine is not running")
        try:
            self._writer.write(frames.encode(frame))
            await self._writer.drain()
        except OSError as error:
            raise EngineCrashed(f"the engine went away: {error}") from error

    async def receive(self) -> frames.Frame:
        """The next frame. Raises EOFError, OSError or FrameError."""
        header = await self._reader.readexactly(frames.HEADER.size)
        return frames.decode(await self._reader.readexactly(frames.body_length(header)))

    async def dispatch(self) -> None:
        """Hands frames to their requests until the engine is gone, then fails those still running."""
        reason = "the engine process ended"
        try:
            while True:
                frame = await self.receive()
                if generation := self._requests.get(frame["id"]):
                    generation.push(frame)
        except (EOFError, OSError):
            pass
        except (frames.FrameError, KeyError) as error:
            reason = f"the engine broke its protocol: {error}"
        finally:
            self.is_open = False
            for generation in self._requests.values():
                generation.push(EngineCrashed(reason))
            self._requests.clear()

    async def close(self) -> None:
        """Closes the socket and waits for the process to end."""
        self.is_open = False
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        await _end(self.process)
        await self._errors.text()


class EngineClient:
    """Starts the engine and keeps it running until `stop`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._ids = itertools.count(1)
        self._folder = tempfile.TemporaryDirectory(prefix="clawmarket-engine-")
        self._connection: _Connection | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self.model: dict[str, Any] = {}
        self.restarts = 0

    @property
    def is_ready(self) -> bool:
        """Whether a request would be taken at once."""
        return self._connection is not None and self._connection.is_open

    @property
    def pid(self) -> int | None:
        """The engine process, if it runs."""
        return self._connection.process.pid if self._connection and self._connection.is_open else None

    async def start(self) -> None:
        """Starts the engine and waits until it serves. Raises EngineStartError."""
        self._connection = await self._launch()
        self._ready.set()
        self._supervisor = asyncio.create_task(self._supervise(self._connection))

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
        self._folder.cleanup()

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self.model["context"])

    @property
    def has_tools(self) -> bool:
        """Whether the chat template takes tools."""
        return "tools" in self.model["chat_template"]

    async def embed(self, prompts: list[Prompt]) -> list[list[float]]:  # noqa: ARG002 - mended with the next commit
        """One vector for each prompt."""
        raise GenerationError("bad_request", "this model does not embed")

    async def count(self, prompt: Prompt) -> int:
        """Tokens of the prompt as the model will read it. Raises EngineError."""
        connection = await self._open_connection()
        request_id = next(self._ids)
        generation = EngineGeneration(self, connection, request_id)
        connection.register(request_id, generation)
        try:
            await connection.send({"op": "count", "id": request_id, "messages": prompt.messages})
            return int((await generation.next_frame())["tokens"])
        finally:
            connection.forget(request_id)

    async def generate(self, request: GenerationRequest) -> EngineGeneration:
        """Starts a generation. Raises EngineCrashed if the engine cannot be reached; later errors come by iteration."""
        connection = await self._open_connection()
        request_id = next(self._ids)
        generation = EngineGeneration(self, connection, request_id)
        connection.register(request_id, generation)
        await connection.send(
            {
                "op": "generate",
                "id": request_id,
                "messages": request.prompt.messages,
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": request.seed,
                "stop": list(request.stop),
                "cache_key": request.cache_key,
            }
        )
        return generation

    async def _open_connection(self) -> _Connection:
        if self._connection is None or not self._connection.is_open:
            raise EngineCrashed("the engine is restarting")
        return self._connection

    async def _supervise(self, connection: _Connection) -> None:
        while True:
            lived_from = asyncio.get_running_loop().time()
            await connection.dispatch()
            await connection.close()
            connection = await self._restart(asyncio.get_running_loop().time() - lived_from)

    async def _restart(self, lived_s: float) -> _Connection:
        attempt = 0 if lived_s > RESTART_DELAYS_S[-1] else min(self.restarts, len(RESTART_DELAYS_S) - 1)
        while True:
            await asyncio.sleep(RESTART_DELAYS_S[attempt])
            self.restarts += 1
            try:
                self._connection = await self._launch()
            except EngineStartError as error:
                _log.warning("the engine does not restart: %s", error)
                attempt = min(attempt + 1, len(RESTART_DELAYS_S) - 1)
            else:
                return self._connection

    async def _launch(self) -> _Connection:
        path = Path(self._folder.name) / "engine.sock"
        path.unlink(missing_ok=True)
        accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.get_running_loop().create_future()
        )

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if accepted.done():
                writer.close()
            else:
                accepted.set_result((reader, writer))

        server = await asyncio.start_unix_server(accept, path)
        process = await asyncio.create_subprocess_exec(
            *self._command(path), stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        errors = _StderrTail(process)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await self._first_frame(process, accepted, errors)
        except BaseException as error:
            if accepted.done():
                accepted.result()[1].close()
            await _end(process)
            await errors.text()
            if isinstance(error, TimeoutError):
                raise EngineStartError("start_timeout", f"engine not ready after {START_TIMEOUT_S:.0f} s") from error
            raise
        finally:
            server.close()
            await server.wait_closed()

    async def _first_frame(
        self,
        process: asyncio.subprocess.Process,
        accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
        errors: "_StderrTail",
    ) -> _Connection:
        ended = asyncio.create_task(process.wait())
        waits: set[asyncio.Future[Any]] = {ended, accepted}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not accepted.done():
                raise EngineStartError("exited", f"engine exited with code {process.returncode}: {await errors.text()}")
            connection = _Connection(process, errors, *accepted.result())
            try:
                frame = await connection.receive()
            except (EOFError, OSError, frames.FrameError) as error:
                code = await ended
                raise EngineStartError("exited", f"engine exited with code {code}: {await errors.text()}") from error
        finally:
            ended.cancel()
        if frame["ev"] != "ready":
            raise EngineStartError(str(frame.get("code")), str(frame.get("message")))
        self.model = dict(frame["model"])
        return connection

    def _command(self, path: Path) -> list[str]:
        settings = self._settings
        return [
            sys.executable,
            "-m",
            "provider.engine",
            f"--model={settings.model}",
            f"--socket={path}",
            f"--threads={settings.threads}",
            f"--parallel={settings.parallel}",
            f"--context={settings.context}",
        ]


class _StderrTail:
    """Reads a process's error output, so that it never blocks, and keeps its last lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._lines: list[str] = []
        self._task = asyncio.create_task(self._read(process))

    async def text(self) -> str:
        """The last lines, once the process has closed its error output."""
        await self._task
        return " | ".join(self._lines) or "no error output"

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            return
        async for line in process.stderr:
            self._lines.append(line.decode(errors="replace").rstrip())
            del self._lines[:-STDERR_LINES]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Waits for a process to end by itself, then terminates and at last kills it."""
    stops: tuple[Callable[[], None] | None, ...] = (None, process.terminate, process.kill)
    for stop in stops:
        if process.returncode is not None:
            return
        if stop is not None:
            with contextlib.suppress(ProcessLookupError):
                stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
