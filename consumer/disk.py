"""Waiting for the disk, for many at once: what was written before a write-out begins is on disk when it ends.

A quick disk is waited for on the spot: a thread would wait longer for Python's lock than for the disk. A slow one is
waited for in a thread, beside other work.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from consumer.exceptions import StoreError

QUICK_S = 0.002
PAUSES = 9
"""Between two write-outs on the spot, in their own length: under load one serves several requests."""
LATER_S = 0.02
"""How long what nobody is held up by waits for company."""
_WEIGHT = 0.2
Told = Callable[[StoreError | None], None]


class Disk:
    """One file's way to the disk, for one event loop at a time.

    The system tells a failure to write out once only, and may have forgotten what it could not write: so the first one
    is kept, and told to everybody from then on.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Told] = []
        self._due: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._is_busy = False
        self._last = 0.0
        self._typical_s = 0.0
        self._lock = threading.Lock()
        self._failure: StoreError | None = None

    def write_out(self, told: Told, *, soon: bool) -> None:
        """Calls `told` on the event loop once all that was written so far is on disk, or may not be."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the one before has ended, and who waited there with it
            self._loop, self._due, self._is_busy, self._waiting = loop, None, False, []
        self._waiting.append(told)
        if not self._is_busy:
            self._plan(loop, self._soon() if soon else time.monotonic() + LATER_S)

    def check(self) -> None:
        """Raises StoreError if writing out has failed before, or is over."""
        if self._failure is not None:
            raise self._failure

    def sync(self) -> None:
        """Waits here until all that was written so far is on disk. Raises StoreError if it may not be."""
        with self._lock:
            self.check()
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                told = f"the disk did not take the records ({error.strerror}): mend it, then start again"
                self._failure = StoreError(told)
                raise self._failure from error

    def close(self) -> None:
        """Writes out what is left, and tells those who wait."""
        failure = self._synced()
        if self._due is not None:
            self._due.cancel()
        if self._loop is not None and not self._loop.is_closed():
            self._tell(self._loop, self._waiting, failure)
        self._waiting = []
        with self._lock:
            self._failure = StoreError("the records are closed")
            os.close(self._descriptor)

    @property
    def _is_quick(self) -> bool:
        return self._typical_s < QUICK_S

    def _soon(self) -> float:
        return self._last + PAUSES * self._typical_s if self._is_quick else self._last

    def _plan(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._due is None or at < self._due_at:
            if self._due is not None:
                self._due.cancel()
            self._due, self._due_at = loop.call_at(at, self._begin, loop), at

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due, self._is_busy, began = None, True, time.monotonic()
        waiting, self._waiting = self._waiting, []
        if self._is_quick:
            self._end(loop, waiting, began, self._synced())
        else:
            work = loop.run_in_executor(None, self._synced)
            work.add_done_callback(lambda done: self._end(loop, waiting, began, done.result()))

    def _end(
        self, loop: asyncio.AbstractEventLoop, waiting: list[Told], began: float, failure: StoreError | None
    ) -> None:
        self._is_busy = False
        self._last = time.monotonic()
        self._typical_s += _WEIGHT * (self._last - began - self._typical_s)
        if self._waiting:
            self._plan(loop, self._soon())
        self._tell(loop, waiting, failure)

    def _tell(self, loop: asyncio.AbstractEventLoop, waiting: list[Told], failure: StoreError | None) -> None:
        for told in waiting:
            loop.call_soon(told, failure)  # each by itself: a fault in what follows one is not another's

    def _synced(self) -> StoreError | None:
        try:
            self.sync()
        except StoreError as error:
            return error
        return None
