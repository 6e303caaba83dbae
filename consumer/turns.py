"""One piece of work at a turn of the event loop.

What arrives together would otherwise be worked on in step: all of it read, then all of it signed for, and nothing sent
before the last is done. Here the first is on its way while the second is worked on.
"""

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

_STEPS = 2
"""How many times the loop goes round between two pieces, so that the first one is sent before the second begins."""


async def turn() -> None:
    """Returns when it is the caller's turn: at once where nobody else works, else in the order of asking."""
    loop = asyncio.get_running_loop()
    if (found := _TURNS.get(loop)) is None:
        found = _TURNS[loop] = _Turns()
    await found.take()


class _Turns:
    """Holds no loop: its loop holds it, and goes when nobody else needs it."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_taken = False

    async def take(self) -> None:
        if self._is_taken:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(mine)
            await mine
        else:
            self._is_taken = True
            self._pass_on(_STEPS)

    def _pass_on(self, steps: int) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._pass_on, steps - 1) if steps else loop.call_soon(self._next)

    def _next(self) -> None:
        while self._waiting:
            if not (first := self._waiting.popleft()).done():
                first.set_result(None)
                self._pass_on(_STEPS)
                return
        self._is_taken = False


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()
