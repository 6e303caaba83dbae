"""Stopping work for clients that have left."""

import asyncio
from collections.abc import Awaitable

from starlette.types import Receive


async def while_connected(receive: Receive, work: Awaitable[None]) -> bool:
    """Does the work to its end, or cancels it once the client is gone. Whether the client stayed."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await receive())["type"] != "http.disconnect":
            pass
        has_left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        if not has_left or task.uncancel():
            raise
        return False
    finally:
        watcher.cancel()
    return True
