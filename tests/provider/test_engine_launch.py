"""Starting an engine, broken off."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from provider.engine.bare import BareHost
from provider.engine.host import SOCKET, EngineSettings
from provider.engine.process import launch
from tests.support.engines import tiny_model


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_a_start_that_is_cancelled_leaves_nobody_listening(tmp_path: Path, steps: int) -> None:
    starting = asyncio.create_task(launch(EngineSettings(tiny_model()), BareHost(), tmp_path))
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
        caller.connect(str(tmp_path / SOCKET))
