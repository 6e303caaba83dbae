"""Answers of the newest block, kept until the next one: what many ask again and again costs one query a block."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from indexer.api.indexed import Indexed
from indexer.api.watcher import Watcher

_MOST = 1024
_MOST_BYTES = 32 * 1024


class Answers:
    """Of one process, in at most 32 MiB. Nothing is kept while the watcher does not know the newest block."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._block: Indexed | None = None
        self._kept: dict[tuple[bytes, bytes], Response] = {}

    def find(self, request: Request) -> Response | None:
        """The answer to the same address, if it is of the newest block."""
        if self._block is None or self._block != self._watcher.indexed:
            return None
        return self._kept.get(_address(request))

    def keep(self, request: Request, answer: Response, indexed: Indexed) -> None:
        """Remember an answer, unless a newer block than its own is known, or it is too long."""
        if indexed != self._watcher.indexed or len(answer.body) > _MOST_BYTES:
            return
        if indexed != self._block or len(self._kept) >= _MOST:
            self._kept.clear()
            self._block = indexed
        self._kept[_address(request)] = answer


def _address(request: Request) -> tuple[bytes, bytes]:
    return request.scope["raw_path"], request.scope["query_string"]
