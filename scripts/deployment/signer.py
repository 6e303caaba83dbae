"""Who signs the deployment's transactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from eth_account.signers.local import LocalAccount


class Signer(Protocol):
    """An account. `transaction` is of type 2 with the keys of JSON-RPC and integers, its data is bytes."""

    @property
    def address(self) -> str: ...

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        """The raw signed transaction."""


class KeySigner:
    """Signs with a private key held in memory."""

    def __init__(self, account: LocalAccount) -> None:
        self._account = account

    @property
    def address(self) -> str:
        return str(self._account.address)

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        return bytes(self._account.sign_transaction(dict(transaction)).raw_transaction)
