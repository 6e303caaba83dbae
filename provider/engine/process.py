"""One life of an engine, wherever it runs: start, frames both ways, watch, end."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any, Protocol

from provider.engine import frames
from provider.engine.errors import EngineCrashed, EngineError, EngineStartError, GenerationError
from provider.engine.expecting import message, whole
from provider.engine.host import EXIT_CODES, SOCKET, START_TIMEOUT_S, EngineHost, EngineSettings, RunningEngine

_CHECKS = 4


class Receiver(Protocol):
    """What takes the frames of one request, and the error that ends it."""

    @property
    def left(self) -> int:
        """How many frames may still come."""

    def push(self, frame: frames.Frame) -> None:
        """Raises FrameError for a frame that may not come now."""

    def fail(self, error: EngineError) -> None:
        """Nothing more comes."""


class Connection:
    """A running engine."""

    def __init__(self, engine: RunningEngine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.engine = engine
        self._reader = reader
        self._writer = writer
        self._requests: dict[int, Receiver] = {}
        self._answered = True  # since the last look of the watch
        self._hangs = False
        self._unanswered_pings = 0
        self._forgotten_left = 0  # frames that may still come for requests nobody listens to
        self._end = "the engine process ended"
        self.model: dict[str, Any] = {}
        self.is_open = True

    def register(self, request_id: int, receiver: Receiver) -> None:
        """Routes frames with this id to `receiver`."""
        self._requests[request_id] = receiver

    def forget(self, request_id: int) -> None:
        """Drops later frames with this id."""
        if receiver := self._requests.pop(request_id, None):
            self._forgotten_left += receiver.left

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
        """Hands frames to their requests until the engine is gone or hangs, then fails those still running.

        One that hangs is killed.
        """
        watch = asyncio.create_task(self._watch(hang_s))
        try:
            while True:
                frame = await self.receive()
                self._answered = True
                self._hand_on(frame)
        except (EOFError, OSError):
            pass
        except frames.FrameError as error:
            self._end = f"the engine broke its protocol: {error}"
        finally:
            watch.cancel()
            self.is_open = False
            for receiver in self._requests.values():
                receiver.fail(EngineCrashed(self._end))
            self._requests.clear()
        if self._hangs:
            await self.engine.kill()

    def _hand_on(self, frame: frames.Frame) -> None:
        """Raises FrameError for a frame that nobody asked for, so that a flood of them ends."""
        if frame.get("ev") == "pong":
            self._unanswered_pings -= 1
            if self._unanswered_pings < 0:
                raise frames.FrameError("it answers pings that were not sent")
        elif type(request_id := frame.get("id")) is not int:
            raise frames.FrameError("a frame belongs to no request")
        elif receiver := self._requests.get(request_id):
            receiver.push(frame)
        else:
            self._forgotten_left -= 1
            if self._forgotten_left < 0:
                raise frames.FrameError("it sends more than was asked for")

    async def close(self) -> str:
        """Closes the socket, waits for the engine to end, and says how it ended."""
        self.is_open = False
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        return await self.engine.close()

    async def _watch(self, hang_s: float) -> None:
        """Gives up an engine that has work and sends nothing, not even the answer to a ping.

        It counts its own looks and not the clock: after a pause of this process the engine still has all its time.
        """
        silent = 0
        while silent < _CHECKS:
            self._answered = not self._requests
            if self._requests and silent == 0:
                self._unanswered_pings += 1
                self._writer.write(frames.encode({"op": "ping"}))
            await asyncio.sleep(hang_s / _CHECKS)
            silent = 0 if self._answered else silent + 1
        self._end = f"the engine hung for {hang_s:.0f} s and was ended"
        self._hangs = True
        self._writer.transport.abort()  # its requests do not wait for its end, which may take a while


async def launch(settings: EngineSettings, host: EngineHost, folder: Path) -> Connection:
    """Starts an engine with its socket in `folder` and waits until it serves. Raises EngineStartError."""
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
        asyncio.get_running_loop().create_future()
    )

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if accepted.done():
            writer.close()
        else:
            accepted.set_result((reader, writer))

    server = await asyncio.start_unix_server(accept, sock=_bind(folder), start_serving=False)
    engine: RunningEngine | None = None
    try:
        await server.start_serving()  # may be cancelled, which then closes the socket
        async with asyncio.timeout(START_TIMEOUT_S):
            engine = await host.start(settings, folder)
            return await _first_frame(engine, accepted)
    except BaseException as error:
        if not accepted.cancel():
            accepted.result()[1].close()
        if engine is not None:
            await engine.close(at_once=isinstance(error, asyncio.CancelledError | TimeoutError))
        if isinstance(error, TimeoutError):
            raise EngineStartError("start_timeout", f"engine not ready after {START_TIMEOUT_S:.0f} s") from error
        raise
    finally:
        server.close()
        await server.wait_closed()


async def _first_frame(
    engine: RunningEngine, accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
) -> Connection:
    ended = asyncio.create_task(engine.ended())
    waits: set[asyncio.Future[Any]] = {ended, accepted}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not accepted.done():
            raise EngineStartError("exited", await ended)
        connection = Connection(engine, *accepted.result())
        try:
            frame = await connection.receive()
        except (EOFError, OSError) as error:
            raise EngineStartError("exited", await ended) from error
        except frames.FrameError as error:
            raise EngineStartError("protocol", f"the engine broke its protocol: {error}") from error
    finally:
        ended.cancel()
    connection.model = _described(frame)
    return connection


def _described(frame: frames.Frame) -> dict[str, Any]:
    """What the first frame says of the model. Raises EngineStartError."""
    model = frame.get("model")
    if frame.get("ev") == "fatal":
        code = frame.get("code")
        raise EngineStartError(str(code) if code in EXIT_CODES else "exited", message(frame))
    if frame.get("ev") != "ready" or not isinstance(model, dict):
        raise EngineStartError("protocol", "the engine broke its protocol: it does not begin with its model")
    try:
        for name in ("context", "dimensions"):
            whole(model, name)
    except frames.FrameError as error:
        raise EngineStartError("protocol", f"the engine broke its protocol: {error}") from error
    return model


def _bind(folder: Path) -> socket.socket:
    """A socket that any user may connect to who can reach the folder.

    It is named through the folder's descriptor, for the path of a Unix socket may have 107 bytes only.
    """
    (folder / SOCKET).unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(f"/proc/self/fd/{descriptor}/{SOCKET}")
        (folder / SOCKET).chmod(0o666)
    except BaseException:
        listening.close()
        raise
    finally:
        os.close(descriptor)
    return listening
