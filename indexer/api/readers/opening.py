"""Which reader a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from indexer.api.readers.base import Reader
from indexer.api.readers.postgres import PostgresReader
from indexer.api.readers.sqlite import SqliteReader
from indexer.config import IndexerConfig


def open_reader(config: IndexerConfig) -> Reader:
    """Not connected before its `open`."""
    if config.is_postgres:
        return PostgresReader(config.database, config.schema_name)
    return SqliteReader(Path(config.database))
