"""Every table. Importing this package fills `SQLModel.metadata`.

State tables hold the newest value per key and are undone through the journal. Event tables hold one row per event,
keyed by its place on the chain, and are undone by deleting from a block on. Both can be rebuilt from `raw_log`. Caches
hold documents that were fetched.
"""

from sqlmodel import SQLModel

from indexer.store.tables.chain import Cursor, Journal, RawLog, RecentBlock, UnknownEvent
from indexer.store.tables.daily import STATES as DAILY_STATES
from indexer.store.tables.documents import CACHES
from indexer.store.tables.escrow import EVENTS as ESCROW_EVENTS
from indexer.store.tables.escrow import STATES as ESCROW_STATES
from indexer.store.tables.params import EVENTS as PARAMS_EVENTS
from indexer.store.tables.params import STATES as PARAMS_STATES
from indexer.store.tables.registry import EVENTS as REGISTRY_EVENTS
from indexer.store.tables.registry import STATES as REGISTRY_STATES
from indexer.store.tables.staking import EVENTS as STAKING_EVENTS
from indexer.store.tables.staking import STATES as STAKING_STATES
from indexer.store.tables.tokens import EVENTS as TOKEN_EVENTS
from indexer.store.tables.tokens import STATES as TOKEN_STATES

STATES: tuple[type[SQLModel], ...] = (
    UnknownEvent,
    *REGISTRY_STATES,
    *ESCROW_STATES,
    *PARAMS_STATES,
    *STAKING_STATES,
    *TOKEN_STATES,
    *DAILY_STATES,
)
EVENTS: tuple[type[SQLModel], ...] = (
    *REGISTRY_EVENTS,
    *ESCROW_EVENTS,
    *PARAMS_EVENTS,
    *STAKING_EVENTS,
    *TOKEN_EVENTS,
)

__all__ = ["CACHES", "EVENTS", "STATES", "Cursor", "Journal", "RawLog", "RecentBlock", "UnknownEvent"]
