"""Figures of the whole market: computed when somebody asks, from one snapshot, and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from indexer.api.indexed import Indexed, Pages
from indexer.api.readers import Fetch, Reader
from indexer.api.watcher import Watcher

T = TypeVar("T")
KEPT_S = 60.0


class _Computed(NamedTuple, Generic[T]):
    indexed: Indexed
    at: float
    value: T


class Kept(Generic[T]):
    """One figure of `compute`, at most `KEPT_S` old."""

    def __init__(
        self,
        reader: Reader,
        pages: Pages,
        watcher: Watcher,
        compute: Callable[[Fetch, Indexed], Awaitable[T]],
    ) -> None:
        self._reader = reader
        self._watcher = watcher
        self._pages = pages
        self._compute = compute
        self._kept: _Computed[T] | None = None
        self._computing = asyncio.Lock()

    async def get(self, *, newest: bool) -> tuple[Indexed, T]:
        """The figure and the block it is of; the `newest` block's, else that of one a while ago. Raises ApiError."""
        async with self._computing:
            kept = self._kept
            is_usable = kept is not None and (
                kept.indexed == self._watcher.indexed if newest else time.monotonic() - kept.at <= KEPT_S
            )
            if kept is None or not is_usable:
                async with self._reader.snapshot() as fetch:
                    indexed = await self._pages.indexed(fetch)
                    value = await self._compute(fetch, indexed)
                self._kept = kept = _Computed(indexed, time.monotonic(), value)
            return kept.indexed, kept.value
