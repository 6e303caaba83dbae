"""The chain itself: raw logs, how far they are read, and what it takes to undo blocks."""

from sqlalchemy import Index
from sqlalchemy import text as sql
from sqlmodel import SQLModel

from indexer.store.columns import binary, flag, number, text, uint256


class RawLog(SQLModel, table=True):
    """A log as the chain holds it; `orphaned` if its block was replaced. Partitioned by block on Postgres."""

    __tablename__ = "raw_log"
    __table_args__ = (
        Index("raw_log_orphaned", "block_number", sqlite_where=sql("orphaned"), postgresql_where=sql("orphaned")),
        {"postgresql_partition_by": "RANGE (block_number)"},
    )

    block_number: int = number(key=True)
    block_hash: bytes = binary(key=True)
    log_index: int = number(key=True)
    block_time: int = number()
    tx_hash: bytes = binary()
    tx_index: int = number()
    address: bytes = binary()
    topic0: bytes | None = binary(nullable=True)
    topic1: bytes | None = binary(nullable=True)
    topic2: bytes | None = binary(nullable=True)
    topic3: bytes | None = binary(nullable=True)
    data: bytes = binary()
    orphaned: bool = flag()


class Cursor(SQLModel, table=True):
    """One row: the last block whose logs are all here (`log_index` of its last log, -1 if it has none).

    `final` is the newest block that was final then: nothing at or below it is ever undone.
    """

    __tablename__ = "cursor"

    chain_id: int = number(key=True)
    genesis_hash: bytes = binary()
    deployment: bytes = binary()
    block_number: int = number()
    block_hash: bytes = binary()
    log_index: int = number()
    block_time: int = number()
    final: int = number()


class RecentBlock(SQLModel, table=True):
    """A block that is not final yet, by which a replaced one is noticed."""

    __tablename__ = "recent_block"

    block_number: int = number(key=True)
    block_hash: bytes = binary()
    parent_hash: bytes = binary()
    block_time: int = number()


class Journal(SQLModel, table=True):
    """What a row of a state table was before a block that is not final changed it; `before` is null if it was not."""

    __tablename__ = "journal"

    block_number: int = number(key=True)
    table_name: str = text(key=True)
    row_key: str = text(key=True)
    before: str | None = text(nullable=True)


class UnknownEvent(SQLModel, table=True):
    """Events that no ABI here explains, which are kept raw alone. `topic0` is empty for a log without topics."""

    __tablename__ = "unknown_event"

    address: bytes = binary(key=True)
    topic0: bytes = binary(key=True)
    count: int = uint256()
    first_block: int = number()
    last_block: int = number()
