"""What event tables have in common."""

from sqlmodel import SQLModel

from indexer.store.columns import number


class EventRow(SQLModel):
    """An event's place on the chain; `raw_log` has its transaction."""

    block_number: int = number(key=True)
    log_index: int = number(key=True)
    block_time: int = number()
