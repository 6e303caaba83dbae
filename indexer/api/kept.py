"""Figures of the whole market: computed when somebody asks, from one snapshot, and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from indexer.api.indexed import Indexed, Pages
from indexer.api.readers import Fetch, Reader

T = TypeVar("T")
KEPT_S = 60.0


class _Computed(NamedTuple, Generic[T]):
    indexed: Indexed
    at: float
    value: T


class Kept(Generic[T]):
    """One figure of `compute`, at most `KEPT_S` old, unless a newer block is asked for."""

    def __init__(self, reader: Reader, pages: Pages, compute: Callable[[Fetch, Indexed], Awaitable[T]]) -> None:
        self._reader = reader
        self._pages = pages
        self._compute = compute
        self._kept: _Computed[T] | None = None
        self._computing = asyncio.Lock()

    async def get(self, least_block: int) -> tuple[Indexed, T]:
        """The figure and the block it is of, which is not below `least_block` if that is indexed. Raises ApiError."""
        async with self._computing:
            kept = self._kept
            if kept is None or kept.indexed.number < least_block or time.monotonic() - kept.at > KEPT_S:
                async with self._reader.snapshot() as fetch:
                    indexed = await self._pages.indexed(fetch)
                    value = await self._compute(fetch, indexed)
                self._kept = kept = _Computed(indexed, time.monotonic(), value)
            return kept.indexed, kept.value
