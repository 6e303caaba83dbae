"""One life of the engine process, as its host sees it: start, frames both ways, watch, end."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from provider.engine import frames
from provider.engine.errors import EngineCrashed, EngineError, EngineStartError, GenerationError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0
STDERR_BYTES = 4_096
_CHECKS = 4


@dataclass(frozen=True)
class EngineSettings:
    """How to run the engine.

    `threads` beyond the cores given to this process are not started. `context` is in tokens per sequence, 0 for the
    model's own (at most 4096). With `vocabulary_only` it loads no weights, counts and tokenizes. `hang_s`: an engine
    silent for so long while it has work is ended and restarted; one decode of 64 tokens must take less.
    """

    model: Path
    threads: int = 1
    parallel: int = 4
    context: int = 0
    vocabulary_only: bool = False
    hang_s: float = 60.0


class Receiver(Protocol):
    """What takes the frames of one request, and the error that ends it."""

    def push(self, item: frames.Frame | EngineError) -> None: ...


class Connection:
    """A running engine."""

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
        self._requests: dict[int, Receiver] = {}
        self._answered = True  # since the last look of the watch
        self._end = "the engine process ended"
        self.model: dict[str, Any] = {}
        self.is_open = True

    def register(self, request_id: int, receiver: Receiver) -> None:
        """Routes frames with this id to `receiver`."""
        self._requests[request_id] = receiver

    def forget(self, request_id: int) -> None:
        """Drops later frames with this id."""
        self._requests.pop(request_id, None)

    async def send(self, frame: frames.Frame) -> None:
        """Sends one frame. Raises EngineCrashed if the engine is gone, GenerationError if the frame is too long."""
        if not self.is_open:
            raise EngineCrashed("the engine is not running")
        try:
            self._writer.write(frames.encode(frame))
            await self._writer.drain()
        except frames.FrameError as error:
            raise GenerationError("bad_request", str(error)) from error
        except OSError as error:
            raise EngineCrashed(f"the engine went away: {error}") from error

    async def receive(self) -> frames.Frame:
        """The next frame. Raises EOFError, OSError or FrameError."""
        header = await self._reader.readexactly(frames.HEADER.size)
        return frames.decode(await self._reader.readexactly(frames.body_length(header)))

    async def dispatch(self, hang_s: float) -> None:
        """Hands frames to their requests until the engine is gone or hangs, then fails those still running."""
        watch = asyncio.create_task(self._watch(hang_s))
        try:
            while True:
                frame = await self.receive()
                self._answered = True
                if frame["ev"] != "pong" and (receiver := self._requests.get(frame["id"])):
                    receiver.push(frame)
        except (EOFError, OSError):
            pass
        except (frames.FrameError, KeyError, TypeError) as error:
            self._end = f"the engine broke its protocol: {error}"
        finally:
            watch.cancel()
            self.is_open = False
            for receiver in self._requests.values():
                receiver.push(EngineCrashed(self._end))
            self._requests.clear()

    async def close(self) -> None:
        """Closes the socket and waits for the process to end."""
        self.is_open = False
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        await _end(self.process)
        await self._errors.text()

    async def _watch(self, hang_s: float) -> None:
        """Kills an engine that has work and sends nothing, not even the answer to a ping.

        It counts its own looks and not the clock: after a pause of this process the engine still has all its time.
        """
        silent = 0
        while silent < _CHECKS:
            self._answered = not self._requests
            if self._requests and silent == 0:
                self._writer.write(frames.encode({"op": "ping"}))
            await asyncio.sleep(hang_s / _CHECKS)
            silent = 0 if self._answered else silent + 1
        self._end = f"the engine hung for {hang_s:.0f} s and was ended"
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


async def launch(settings: EngineSettings, folder: Path) -> Connection:
    """Starts an engine with its socket in `folder` and waits until it serves. Raises EngineStartError."""
    path = folder / "engine.sock"
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
        *_command(settings, path), stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    errors = _StderrTail(process)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            return await _first_frame(process, accepted, errors)
    except BaseException as error:
        if not accepted.cancel():
            accepted.result()[1].close()
        if isinstance(error, asyncio.CancelledError) and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await _end(process)
        await errors.text()
        if isinstance(error, TimeoutError):
            raise EngineStartError("start_timeout", f"engine not ready after {START_TIMEOUT_S:.0f} s") from error
        raise
    finally:
        server.close()
        await server.wait_closed()


async def _first_frame(
    process: asyncio.subprocess.Process,
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    errors: "_StderrTail",
) -> Connection:
    ended = asyncio.create_task(process.wait())
    waits: set[asyncio.Future[Any]] = {ended, accepted}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not accepted.done():
            raise EngineStartError("exited", f"engine exited with code {process.returncode}: {await errors.text()}")
        connection = Connection(process, errors, *accepted.result())
        try:
            frame = await connection.receive()
        except (EOFError, OSError, frames.FrameError) as error:
            code = await ended
            raise EngineStartError("exited", f"engine exited with code {code}: {await errors.text()}") from error
    finally:
        ended.cancel()
    if frame["ev"] != "ready":
        raise EngineStartError(str(frame.get("code")), str(frame.get("message")))
    connection.model = dict(frame["model"])
    return connection


def _command(settings: EngineSettings, path: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "provider.engine",
        f"--model={settings.model}",
        f"--socket={path}",
        f"--threads={settings.threads}",
        f"--parallel={settings.parallel}",
        f"--context={settings.context}",
        *(["--vocabulary-only"] if settings.vocabulary_only else []),
    ]


class _StderrTail:
    """Reads a process's error output, so that it never blocks, and keeps its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._tail = b""
        self._task = asyncio.create_task(self._read(process))

    async def text(self) -> str:
        """The last lines, once the process has closed its error output."""
        await self._task
        return " | ".join(self._tail.decode(errors="replace").split("\n")).strip(" |") or "no error output"

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            return
        while data := await process.stderr.read(STDERR_BYTES):
            self._tail = (self._tail + data)[-STDERR_BYTES:]


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
