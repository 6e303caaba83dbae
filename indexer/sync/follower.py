"""Keeps the tables at the chain's head.

Up to finality logs are read in big pieces, the next while the last is written. Beyond it every block is checked to
follow the one before; where it does not, blocks are undone down to the fork, but never below finality. Nodes that are
behind the tables, on the same chain, are waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from indexer.decode.decoder import Event
from indexer.exceptions import FinalityBroken
from indexer.rpc.endpoints import Endpoints
from indexer.rpc.head import Tip, agreed_headers, agreed_tip
from indexer.rpc.headers import Header
from indexer.rpc.logs import Log
from indexer.rpc.ranges import LogReader
from indexer.store.cursor import Position
from indexer.store.tables import RecentBlock
from indexer.sync.writer import Writer
from protocol.chain.deployments import Profile


class Progress(NamedTuple):
    """What is written, where it is to end, and how many logs the last step wrote."""

    position: Position
    target: int
    logs: int


Report = Callable[[Progress], None]


class _Read(NamedTuple):
    last: Header
    logs: list[Log]
    events: list[Event | None]


class Follower:
    """Reads from these endpoints, writes with this writer, and tells `report` after each step."""

    def __init__(
        self, endpoints: Endpoints, reader: LogReader, writer: Writer, profile: Profile, report: Report
    ) -> None:
        self._endpoints = endpoints
        self._reader = reader
        self._writer = writer
        self._profile = profile
        self._report = report

    def backfill(self) -> Tip:
        """Up to the newest final block; returns the tip it was measured by."""
        while True:
            tip = agreed_tip(self._endpoints, self._profile)
            self._undo_replaced(tip)
            if self._writer.position.block_number >= tip.final:
                return tip
            self._read_up_to(tip)

    def step(self) -> Tip:
        """Up to the head. Raises FinalityBroken; what `Endpoints.ask` raises may pass."""
        tip = self.backfill()
        while self._writer.position.block_number < tip.head.number:
            number = self._writer.position.block_number + 1
            header = tip.head
            if number != tip.head.number:
                header = agreed_headers(self._endpoints, [number])[number]
            if not self._follows(header):
                self._undo_replaced(tip)
                continue
            logs = self._reader.read_block(header)
            self._writer.write(header, logs, self._writer.decode(logs), tip.final)
            self._report(Progress(self._writer.position, tip.head.number, len(logs)))
        return tip

    def _read_up_to(self, tip: Tip) -> None:
        first = self._writer.position.block_number + 1
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reading:
            coming = reading.submit(self._read, first, tip.final)
            while True:
                read = coming.result()
                if read.last.number < tip.final:
                    coming = reading.submit(self._read, read.last.number + 1, tip.final)
                self._writer.write(read.last, read.logs, read.events, tip.final)
                self._report(Progress(self._writer.position, tip.final, len(read.logs)))
                if read.last.number >= tip.final:
                    return

    def _read(self, first: int, last: int) -> _Read:
        piece = self._reader.read(first, last)
        return _Read(piece.last, piece.logs, self._writer.decode(piece.logs))

    def _follows(self, header: Header) -> bool:
        position = self._writer.position
        return header.parent_hash == position.block_hash or position.block_hash == bytes(32)

    def _undo_replaced(self, tip: Tip) -> None:
        """Undo the blocks that the chain has not any more, unless it only lags behind."""
        recent = self._writer.recent_blocks()
        if not recent or self._is_behind(tip, recent) or self._has(tip, recent[0]):
            return
        for block in recent[1:]:
            if self._has(tip, block):
                self._writer.undo(block)
                self._report(Progress(self._writer.position, tip.head.number, 0))
                return
        oldest = recent[-1]
        raise FinalityBroken(
            f"the chain replaced block {oldest.block_number} (0x{oldest.block_hash.hex()}), which was final by the "
            f"profile {self._profile.name!r}: if the RPC endpoints are right, run `clawmarket indexer reset`"
        )

    def _is_behind(self, tip: Tip, recent: list[RecentBlock]) -> bool:
        if tip.head.number >= recent[0].block_number:
            return False
        if tip.head.number < recent[-1].block_number:
            return True
        return any(block.block_number == tip.head.number and block.block_hash == tip.head.hash for block in recent)

    def _has(self, tip: Tip, block: RecentBlock) -> bool:
        number = block.block_number
        if number > tip.head.number:
            return False
        header = tip.head if number == tip.head.number else agreed_headers(self._endpoints, [number])[number]
        return header.hash == block.block_hash
