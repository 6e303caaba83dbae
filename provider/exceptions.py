"""What the worker can raise.

ProviderError
├── ConfigError          the configuration or a file it names cannot be used
├── BackupError          a backup cannot be made, or is not one to restore
├── LedgerError          the ledger cannot be opened, belongs to someone else, or contradicts itself
│   └── AnchorError      signing an anchor would contradict the chain, or the node key is not in force
└── Refusal              a request is refused; carries an HTTP status and a machine-readable code
"""

from typing import Any

from protocol.headers import RefusalCode


class ProviderError(Exception):
    """Base of the worker's errors."""


class ConfigError(ProviderError):
    """The worker cannot start with this configuration."""


class BackupError(ProviderError):
    """A backup cannot be made, or must not be restored."""


class LedgerError(ProviderError):
    """The ledger cannot be used, or an entry contradicts an earlier one."""


class AnchorError(LedgerError):
    """No anchor may be signed with this ledger and key."""


class Refusal(ProviderError):  # noqa: N818 - it is an answer
    """A request the worker does not serve. `details` go to the client: figures that help it, never secrets."""

    def __init__(self, code: RefusalCode | str, message: str, *, status: int | None = None, **details: Any) -> None:
        """`code` beyond the protocol's own needs a `status`."""
        super().__init__(message)
        self.code = code
        self.status = status or (code.http_status if isinstance(code, RefusalCode) else 500)
        self.details = details
