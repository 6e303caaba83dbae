"""Blocks into the tables, the position with them in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from indexer import derive
from indexer.decode.decoder import Decoder, Event
from indexer.rpc.headers import Header
from indexer.rpc.logs import Log
from indexer.store import cursor, journal
from indexer.store.cursor import Position
from indexer.store.database import Database
from indexer.store.rows import Rows
from indexer.store.shapes import shape_of
from indexer.store.tables import RawLog, RecentBlock
from protocol.chain.deployments import Deployment

_RAW = shape_of(RawLog)
_RECENT = shape_of(RecentBlock)


class Writer:
    """The one writer of a locked and migrated database. Raises ForeignStore if it is another deployment's."""

    def __init__(self, database: Database, deployment: Deployment, decoder: Decoder) -> None:
        self._database = database
        self._decoder = decoder
        addresses = {name: bytes.fromhex(record.address[2:]) for name, record in deployment.contracts.items()}
        self._rows = Rows(database, addresses)
        self.position: Position = cursor.load(database, deployment)

    def decode(self, logs: Sequence[Log]) -> list[Event | None]:
        """What `write` needs beside the logs; may run in another thread. Raises MalformedLog."""
        return self._decoder.decode_all(logs)

    def write(self, header: Header, logs: Sequence[Log], events: Sequence[Event | None], final: int) -> None:
        """All logs from the position up to the block `header`.

        `final` is the newest final block. Beyond it only one block at a time is written, with what it takes to undo it.
        """
        start, last = self.position.block_number + 1, header.number
        settled = max(self.position.final, min(final, last))
        position = self.position._replace(
            block_number=last,
            block_hash=header.hash,
            log_index=logs[-1].log_index if logs and logs[-1].block_number == last else -1,
            block_time=header.time,
            final=settled,
        )
        try:
            with self._database.transaction():
                self._write_raw(start, last, logs)
                self._rows.keep_journal(on=last > settled)
                derive.apply(logs, events, self._rows)
                self._rows.flush(last)
                if settled > self.position.final:
                    journal.prune(self._database, settled)
                self._database.upsert(_RECENT, [dict(zip(_RECENT.columns, header, strict=False))])
                cursor.save(self._database, position)
        except BaseException:
            self._rows.forget()
            raise
        self.position = position

    def undo(self, block: RecentBlock) -> None:
        """Undo every block above this one, which must not be below finality."""
        position = self.position._replace(
            block_number=block.block_number,
            block_hash=block.block_hash,
            log_index=self._last_index(block),
            block_time=block.block_time,
        )
        self._rows.forget()
        with self._database.transaction():
            journal.undo(self._database, block.block_number)
            cursor.save(self._database, position)
        self.position = position

    def recent_blocks(self) -> list[RecentBlock]:
        """The blocks from the newest final one on, newest first."""
        statement = f"SELECT {', '.join(_RECENT.columns)} FROM recent_block ORDER BY block_number DESC"  # noqa: S608
        return [
            RecentBlock(**dict(zip(_RECENT.columns, row, strict=True))) for row in self._database.execute(statement)
        ]

    def _write_raw(self, start: int, last: int, logs: Sequence[Log]) -> None:
        self._database.prepare_blocks(start, last)
        # A block that was replaced may have come back.
        returned = {(log.block_number, log.block_hash) for log in logs}
        for number, block_hash in self._database.execute(
            "SELECT DISTINCT block_number, block_hash FROM raw_log WHERE orphaned AND block_number BETWEEN ? AND ?",
            [start, last],
        ):
            if (number, block_hash) in returned:
                self._database.execute(
                    "DELETE FROM raw_log WHERE orphaned AND block_number = ? AND block_hash = ?", [number, block_hash]
                )
        self._database.insert(_RAW, [(*log, False) for log in logs])

    def _last_index(self, block: RecentBlock) -> int:
        ((index,),) = self._database.execute(
            "SELECT max(log_index) FROM raw_log WHERE block_number = ? AND block_hash = ?",
            [block.block_number, block.block_hash],
        )
        return -1 if index is None else int(index)
