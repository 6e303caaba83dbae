"""What every command needs, opened from the configuration and closed together."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from indexer.config import IndexerConfig
from indexer.decode.decoder import Decoder
from indexer.rpc.endpoints import Endpoints
from indexer.rpc.ranges import LogReader
from indexer.store import cursor
from indexer.store.database import Database
from indexer.store.postgres import PostgresDatabase
from indexer.store.sqlite import SqliteDatabase
from indexer.sync.follower import Follower, Report
from indexer.sync.writer import Writer
from protocol.chain import deployments
from protocol.chain.client import ChainClient


class Session:
    """A database and the chain it mirrors. Nothing is asked of a node until it is needed."""

    def __init__(self, config: IndexerConfig) -> None:
        self.config = config
        self.deployment = deployments.load_file(config.deployment)
        self.client = ChainClient(config.rpc, self.deployment)
        self.decoder = Decoder(
            {
                bytes.fromhex(record.address[2:]): self.client.abi(name)
                for name, record in self.deployment.contracts.items()
            }
        )
        self.endpoints = Endpoints(config.rpc, self.deployment)
        self.database = open_database(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()
        self.endpoints.close()
        self.client.close()

    def reopen(self) -> None:
        """A new connection to the database, with the lock given up. Raises StoreError."""
        self.database.close()
        self.database = open_database(self.config)

    def follower(self, report: Report) -> Follower:
        """Takes the writer's lock. Raises WriterRunning, ForeignStore, DeploymentError, WrongChain, RpcUnavailable."""
        self.database.lock()
        self.database.migrate()
        cursor.load(self.database, self.deployment)
        self.client.check_deployment()
        reader = LogReader(self.endpoints, self.decoder.addresses)
        writer = Writer(self.database, self.deployment, self.decoder)
        return Follower(self.endpoints, reader, writer, self.deployment.profile, report)


def open_database(config: IndexerConfig) -> Database:
    """Raises StoreError."""
    if config.is_postgres:
        return PostgresDatabase(config.database, config.schema_name)
    return SqliteDatabase(Path(config.database))
