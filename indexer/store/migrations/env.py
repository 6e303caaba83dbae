"""Alembic runs this file; the connection comes from `indexer.store.migrate`."""

from alembic import context
from sqlmodel import SQLModel

from indexer.store import tables  # noqa: F401 - fills the metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=SQLModel.metadata)
with context.begin_transaction():
    context.run_migrations()
