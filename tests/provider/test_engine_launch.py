"""Starting an engine: broken off, and one that lies from its first frame on."""

import asyncio
import contextlib
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from provider.engine import frames
from provider.engine.bare import BareHost
from provider.engine.errors import EngineStartError
from provider.engine.host import SOCKET, EngineSettings
from provider.engine.process import launch
from tests.support.engines import tiny_model

SETTINGS = EngineSettings(tiny_model())


class LyingEngine:
    """Connects, sends some bytes, and stays."""

    pid = None

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._killed = asyncio.Event()
        self.is_closed = False

    async def ended(self) -> str:
        """Not by itself."""
        await self._killed.wait()
        return "killed"

    async def kill(self) -> None:
        """At once."""
        self._killed.set()

    async def close(self, *, at_once: bool = False) -> str:
        """Whatever `at_once` says."""
        self.is_closed = not at_once
        await self.kill()
        self._writer.close()
        return await self.ended()


class LyingHost:
    """Starts nothing but that."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.engines: list[LyingEngine] = []

    def new_folder(self) -> TemporaryDirectory[str]:
        """Nobody asks for it here."""
        return TemporaryDirectory()

    async def start(self, settings: EngineSettings, folder: Path) -> LyingEngine:
        """A connection with its first frame on the way."""
        _, writer = await asyncio.open_unix_connection(folder / SOCKET)
        writer.write(self._content)
        self.engines.append(LyingEngine(writer))
        return self.engines[-1]


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_a_start_that_is_cancelled_leaves_nobody_listening(tmp_path: Path, steps: int) -> None:
    starting = asyncio.create_task(launch(SETTINGS, BareHost(), tmp_path))
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
        caller.connect(str(tmp_path / SOCKET))


@pytest.mark.parametrize(
    "content",
    [
        frames.encode({"model": {}}),
        frames.encode({"ev": "ready"}),
        frames.encode({"ev": "ready", "model": [1]}),
        frames.encode({"ev": ["ready"], "model": {}}),
        frames.HEADER.pack(3) + b"NaN",
        frames.HEADER.pack(0),
    ],
)
async def test_a_first_frame_that_is_none_ends_the_start_and_the_engine(tmp_path: Path, content: bytes) -> None:
    host = LyingHost(content)
    with pytest.raises(EngineStartError):
        await asyncio.wait_for(launch(SETTINGS, host, tmp_path), 10)
    assert [engine.is_closed for engine in host.engines] == [True]
