"""What the indexer can raise; what concerns nodes and deployments is in `protocol.chain.exceptions`.

IndexerError                 `exit_code` is what the command ends with
├── ConfigUnusable           the configuration is missing or wrong
├── StoreError               the database cannot be used
│   ├── WriterRunning        another indexer writes to it
│   └── ForeignStore         it holds another chain or deployment, a restarted development chain among them
├── FinalityBroken           the chain replaced blocks that were final
├── EndpointsDisagree        the RPC endpoints tell different chains and none has a majority
├── NotFetched               a document is not to be had from an address
└── VerifyFailed             the tables differ from the raw logs or from the contracts
"""

# ruff: noqa: N818 - errors are named for what is wrong, as their users read them
from __future__ import annotations

from typing import ClassVar


class IndexerError(Exception):
    """Base of everything in this module."""

    exit_code: ClassVar[int] = 1


class ConfigUnusable(IndexerError):
    """The configuration is missing or wrong."""


class StoreError(IndexerError):
    """The database cannot be used."""


class WriterRunning(StoreError):
    """Another process holds the database's writer lock."""

    exit_code = 3


class ForeignStore(StoreError):
    """The database holds another chain or deployment."""

    exit_code = 4


class FinalityBroken(IndexerError):
    """The chain replaced blocks that were final."""

    exit_code = 5


class EndpointsDisagree(IndexerError):
    """The RPC endpoints tell different chains."""


class NotFetched(IndexerError):
    """A document is not to be had from an address; the message says why, and not what came."""


class VerifyFailed(IndexerError):
    """The tables differ from the raw logs or from the contracts."""

    exit_code = 6
