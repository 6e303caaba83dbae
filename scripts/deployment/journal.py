"""The record of a deployment under way, deployments/<chain-id>.pending.json.

Every transaction's hash is written and synced before it is sent, so that after a crash nothing is unknown: the same
nonces lead to the same addresses, and a transaction signed anew with its old nonce replaces itself.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from protocol.chain.exceptions import DeploymentError


@dataclass
class Attempt:
    """What was signed for one nonce, oldest first, and the fees per gas of the last, in wei."""

    hashes: list[str] = field(default_factory=list)
    max_fee: int = 0
    tip: int = 0


@dataclass
class Journal:
    """`plan_digest` covers everything that decides the addresses and the code behind them."""

    path: Path
    genesis_hash: str
    deployer: str
    first_nonce: int
    plan_digest: str
    attempts: dict[int, Attempt] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """The journal of an unfinished deployment. Raises DeploymentError when it can't be read."""
        try:
            document: dict[str, Any] = json.loads(path.read_bytes())
            attempts = {int(nonce): Attempt(**entry) for nonce, entry in document.pop("attempts").items()}
            return cls(path=path, attempts=attempts, **document)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DeploymentError(
                f"{path} is damaged: it records a deployment that did not finish; if you give that one up, remove it"
            ) from None

    def save(self) -> None:
        """Write whole or not at all, and wait until it is on the disk."""
        document = asdict(self)
        del document["path"]
        temporary = self.path.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@contextmanager
def only_one(folder: Path, chain_id: int) -> Iterator[None]:
    """Hold the folder's lock for this chain. Raises DeploymentError when another process deploys there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{chain_id}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeploymentError(f"another deployment to chain {chain_id} is running with {folder}") from None
        yield
