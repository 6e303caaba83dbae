"""How far the chain is read: the row of the table `cursor`."""

from __future__ import annotations

from typing import NamedTuple, Self

from indexer.exceptions import ForeignStore
from indexer.store.database import Database
from indexer.store.shapes import shape_of
from indexer.store.tables import Cursor
from protocol.chain.deployments import Deployment
from protocol.hashing import keccak

_SHAPE = shape_of(Cursor)


class Position(NamedTuple):
    """The row, its fields in the table's order."""

    chain_id: int
    genesis_hash: bytes
    deployment: bytes
    block_number: int
    block_hash: bytes
    log_index: int
    block_time: int
    final: int

    @classmethod
    def before(cls, deployment: Deployment) -> Self:
        """Before the first block that holds any of the contracts."""
        first = deployment.block - 1
        return cls(
            deployment.chain_id, deployment.genesis_hash, fingerprint(deployment), first, bytes(32), -1, 0, first
        )


def fingerprint(deployment: Deployment) -> bytes:
    """Tells deployments on one chain apart."""
    contracts = sorted((name, record.address) for name, record in deployment.contracts.items())
    return keccak(repr((deployment.block, contracts)).encode())


def load(database: Database, deployment: Deployment) -> Position:
    """The position saved, or the one before the first block. Raises ForeignStore if it is another deployment's."""
    rows = database.execute(f"SELECT {', '.join(_SHAPE.columns)} FROM {_SHAPE.name}")  # noqa: S608
    if not rows:
        return Position.before(deployment)
    found = Position(*rows[0])
    if (found.chain_id, found.genesis_hash) != (deployment.chain_id, deployment.genesis_hash):
        raise ForeignStore(
            f"{database.where} mirrors chain {found.chain_id} with the genesis block 0x{found.genesis_hash.hex()}, the "
            f"deployment file is of chain {deployment.chain_id} with 0x{deployment.genesis_hash.hex()}: if a "
            "development chain was restarted, run `clawmarket indexer reset`; else correct the configuration"
        )
    if found.deployment != fingerprint(deployment):
        raise ForeignStore(
            f"{database.where} mirrors another deployment on chain {found.chain_id}: give this one a database of its "
            "own, or run `clawmarket indexer reset`"
        )
    return found


def save(database: Database, position: Position) -> None:
    """Inside of the transaction that writes what the position covers."""
    database.upsert(_SHAPE, [position._asdict()])
