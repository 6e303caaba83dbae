"""Engines as plain children of this process: no wall at all, for tests and measurements."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from provider.engine.host import SOCKET, STDERR_BYTES, STOP_TIMEOUT_S, EngineSettings, arguments, last_words


class BareHost:
    """Starts engines that may do all that this process may."""

    def new_folder(self) -> TemporaryDirectory[str]:
        """Open to this user only."""
        return TemporaryDirectory(prefix="clawmarket-engine-")

    async def start(self, settings: EngineSettings, folder: Path) -> "ChildEngine":
        """Starts the engine with this Python."""
        line = [sys.executable, "-m", "provider.engine"]
        line += arguments(settings, str(settings.model), str(folder / SOCKET))
        return ChildEngine(
            await asyncio.create_subprocess_exec(
                *line, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
            )
        )


class ChildEngine:
    """An engine that is a child of this process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._tail = b""
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def ended(self) -> str:
        """Waits for its end."""
        await self._process.wait()
        await self._reading
        return f"engine exited with code {self._process.returncode}: {last_words(self._tail)}"

    async def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self, *, at_once: bool = False) -> str:
        """Waits for it to end by itself, then terminates and at last kills it."""
        process = self._process
        stops: tuple[Callable[[], None] | None, ...] = (None, process.terminate, process.kill)
        for stop in stops[1:] if at_once else stops:
            if process.returncode is not None:
                break
            if stop is not None:
                with contextlib.suppress(ProcessLookupError):
                    stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        return await self.ended()

    async def _read(self) -> None:
        """Reads its error output, so that it never blocks, and keeps the end."""
        if self._process.stderr is None:
            return
        while data := await self._process.stderr.read(STDERR_BYTES):
            self._tail = (self._tail + data)[-STDERR_BYTES:]
