"""What each event does to the derived tables: one function per event, registered on import."""

from indexer.derive import escrow, params, registry, staking, tokens
from indexer.derive.handlers import apply

__all__ = ["apply", "escrow", "params", "registry", "staking", "tokens"]
