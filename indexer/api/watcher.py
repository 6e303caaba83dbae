"""Follows the writer: the newest position, told to whoever waits for it."""

from __future__ import annotations

import asyncio
import logging

from indexer.api.errors import ApiError, busy
from indexer.api.indexed import Indexed, Pages
from indexer.api.readers import Reader

WAIT_S = 10.0
"""How long `min_block` is waited for."""
_MOST_WAITING = 256
_REST_S = 1.0

_log = logging.getLogger(__name__)


class Watcher:
    """`run` keeps `indexed` at what the writer committed last; None while it is not known."""

    def __init__(self, reader: Reader, pages: Pages, wait_s: float = WAIT_S) -> None:
        self.indexed: Indexed | None = None
        self._reader = reader
        self._pages = pages
        self._wait_s = wait_s
        self._waiting = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled, whatever the database does."""
        fault: str | None = None
        while True:
            try:
                async for _ in self._reader.changes():
                    found = await self._pages.indexed()
                    fault = None
                    if found != self.indexed:
                        self.indexed = found
                        self._changed.set()
                        self._changed = asyncio.Event()
            except ApiError as error:
                self.indexed = None
                if error.code != fault:
                    fault = error.code
                    _log.warning("the indexed block is not known: %s", error)
            await asyncio.sleep(_REST_S)

    @property
    def change(self) -> asyncio.Event:
        """Set at the next change of `indexed`."""
        return self._changed

    async def wait_for(self, block: int) -> None:
        """Until this block is indexed. Raises ApiError, 409, when it is not in time."""
        if self._has(block):
            return
        if self._waiting >= _MOST_WAITING:
            raise busy("too many requests wait for a block")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                while not self._has(block):
                    await self.change.wait()
        except TimeoutError:
            at = "nothing" if self.indexed is None else f"block {self.indexed.number}"
            raise ApiError(
                409,
                "block_not_indexed",
                f"block {block} is not indexed yet after {self._wait_s:g} s of waiting; {at} is",
                param="min_block",
                retry_after_s=self._wait_s,
            ) from None
        finally:
            self._waiting -= 1

    def _has(self, block: int) -> bool:
        return self.indexed is not None and self.indexed.number >= block
