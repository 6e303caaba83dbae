"""What can go wrong between this program and the chain.

ProtocolError
└── ChainError
    ├── RpcError
    │   ├── RpcUnavailable        every endpoint failed in a way that may pass: try again later
    │   ├── RpcRejected           a node answered with a JSON-RPC error
    │   └── MalformedAnswer       a node answered with something no honest node says
    │       └── AnswerTooLarge    an answer passes the limit of bytes: ask for less
    ├── WrongChain                a node serves another chain than the deployment's
    ├── DeploymentError           deployment file or ABI unreadable, foreign or of another version
    ├── ContractReverted          a call or a gas estimate reverted; carries the contract's reason
    ├── MalformedLog              a log that its own event's ABI cannot produce
    └── SenderError
        ├── SenderLocked          another process sends for this account
        ├── ForeignStore          the intents belong to another account or chain, or the file is damaged
        ├── IntentConflict        one key was used for two different transactions
        ├── UnknownIntent         no transaction was recorded under this key
        ├── InsufficientFunds     the account cannot pay for gas and value
        ├── FeeTooHigh            the network asks more than the configured ceiling
        ├── NonceGap              transactions of someone else stand before ours and do not arrive
        ├── TransactionTimeout    not final yet; it is still being followed, do not send it anew
        └── TransactionReverted   mined, and reverted

Amounts are in wei. No message holds more of an RPC address than its scheme, host and port: paths often carry keys.
"""

# ruff: noqa: N818 - errors are named for what is wrong, as their users read them
from __future__ import annotations

from typing import Any

from protocol.exceptions import ProtocolError


class ChainError(ProtocolError):
    """Base of everything in this module."""


class RpcError(ChainError):
    """Talking to a node failed."""


class RpcUnavailable(RpcError):
    """Every endpoint failed, each for a reason that may pass."""


class RpcRejected(RpcError):
    """A node refused one request; `code`, `message` and `data` are its own."""

    def __init__(self, method: str, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{method} was refused: {message} (code {code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data


class MalformedAnswer(RpcError):
    """A node's answer has the wrong type, size or content."""


class AnswerTooLarge(MalformedAnswer):
    """A node's answer passes the limit of bytes."""


class WrongChain(ChainError):
    """A node serves another chain than expected."""


class DeploymentError(ChainError):
    """The deployment cannot be used."""


class ContractReverted(ChainError):
    """A contract refused; `reason` is its revert string, such as "escrow: lease not active"."""

    def __init__(self, reason: str, data: bytes = b"") -> None:
        super().__init__(f"the contract refused: {reason}")
        self.reason = reason
        self.data = data


class MalformedLog(ChainError):
    """A log does not fit its event."""


class SenderError(ChainError):
    """Base of the transaction sender's errors."""


class SenderLocked(SenderError):
    """The sender's file is in use."""


class ForeignStore(SenderError):
    """The sender's file is not this account's on this chain."""


class IntentConflict(SenderError):
    """The key is taken by another transaction."""


class UnknownIntent(SenderError):
    """Nothing was recorded under this key."""


class InsufficientFunds(SenderError):
    """`address` has `available` wei but needs `needed`."""

    def __init__(self, address: str, needed: int, available: int) -> None:
        super().__init__(
            f"{address} has {available} wei but this transaction may cost {needed} wei: "
            f"send at least {max(needed - available, 1)} wei to {address} and try again"
        )
        self.address = address
        self.needed = needed
        self.available = available


class FeeTooHigh(SenderError):
    """The network's fee passes the configured ceiling."""


class NonceGap(SenderError):
    """Nonces between the chain's and ours are missing."""


class TransactionTimeout(SenderError):
    """The transaction did not reach the wanted state in time; it stays recorded and followed."""


class TransactionReverted(SenderError):
    """The transaction was mined and reverted."""

    def __init__(self, tx_hash: str, reason: str) -> None:
        super().__init__(f"transaction {tx_hash} reverted: {reason}")
        self.tx_hash = tx_hash
        self.reason = reason
