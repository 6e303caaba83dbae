"""The worker's own reader of the engine's frames, fed by a container; and one without any checks, as control."""

import asyncio
import inspect
import json
import socket
import struct
from typing import Any

from provider.engine.client import EngineGeneration
from provider.engine.errors import EngineError
from provider.engine.expecting import GenerationFrames
from provider.engine.process import Connection

READ_S = 4.0
_HANG_S = 60.0
_REQUEST = 1
_MOST_KEPT = 64 << 20


class _Engine:
    """Stands for the engine's process."""

    pid = None
    returncode = None

    async def kill(self) -> None:
        """There is none."""


def read_frames(link: socket.socket, *, believing: bool) -> bool:
    """Whether what the engine sent broke the reader: an error that the worker does not expect, or no end."""
    try:
        if believing:
            return _believe(link)
        return asyncio.run(_read(link))
    except (ConnectionError, EOFError):
        return False


def _believe(link: socket.socket) -> bool:
    data = b""
    try:
        while chunk := link.recv(1 << 20):
            data += chunk
            if len(data) > _MOST_KEPT // 4:  # all of it would be kept
                return True
        while data:
            (length,) = struct.unpack(">I", data[:4])
            frame = json.loads(data[4 : 4 + length])
            {1: []}[frame["id"]].append(len(frame["ev"]) + len(frame["text"]) + frame["token"])
            data = data[4 + length :]
    except Exception:  # noqa: BLE001 - this is what the control shows
        return True
    return False


async def _read(link: socket.socket) -> bool:
    reader, writer = await asyncio.open_unix_connection(sock=link.dup())
    others: list[Any] = [_Engine()] * (len(inspect.signature(Connection).parameters) - 2)
    make: Any = Connection  # its first arguments stand for the process
    connection = make(*others, reader, writer)
    generation = EngineGeneration(connection, _REQUEST, GenerationFrames(64, 4))
    connection.register(_REQUEST, generation)
    tasks = [asyncio.create_task(connection.dispatch(_HANG_S)), asyncio.create_task(_use(generation))]
    await asyncio.wait(tasks, timeout=READ_S, return_when=asyncio.FIRST_EXCEPTION)
    broke = any(task.done() and task.exception() is not None for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    writer.close()
    return broke


async def _use(generation: EngineGeneration) -> None:
    try:
        async for _ in generation:
            pass
    except EngineError:
        return
