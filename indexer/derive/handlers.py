"""Which function handles which event.

    @on("LeaseEscrow", "NonceBumped", lambda e: [(LeaseNonce, (e.args["owner"],))])
    def nonce_bumped(event: Event, rows: Rows) -> None: …

The third argument names rows that the function needs, as far as the event alone tells, so that a batch reads them at
once; the fourth, `then`, those that only these rows tell. A function changes rows only through `Rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from indexer.decode.decoder import Event
from indexer.rpc.logs import Log
from indexer.store.rows import Rows
from indexer.store.shapes import Key, Model
from indexer.store.tables import UnknownEvent

Handler = Callable[[Event, Rows], None]
Needs = Callable[[Event], list[tuple[Model, Key]]]
ThenNeeds = Callable[[Event, Rows], list[tuple[Model, Key]]]

RAW_ONLY = frozenset(
    {
        # Allowances cannot be known from events: spending one emits nothing at TestUSDC.
        ("ClawToken", "Approval"),
        ("TestUSDC", "Approval"),
        ("ClawToken", "RoleMinterChanged"),
        ("TestUSDC", "EIP712DomainChanged"),
    }
)
"""Events that are kept raw and change no other table."""

_handlers: dict[tuple[str, str], tuple[Handler, Needs, ThenNeeds | None]] = {}


def on(
    contract: str, name: str, needs: Needs | None = None, then: ThenNeeds | None = None
) -> Callable[[Handler], Handler]:
    """Registers the function for an event of a contract."""

    def register(handler: Handler) -> Handler:
        _handlers[contract, name] = (handler, needs or _nothing, then)
        return handler

    return register


def handled() -> frozenset[tuple[str, str]]:
    """Contract and name of every event that has a function."""
    return frozenset(_handlers)


def apply(logs: Iterable[Log], events: Iterable[Event | None], rows: Rows) -> None:
    """Apply decoded logs in chain order; None is a log that no ABI explains."""
    known: list[tuple[Log, Event | None, tuple[Handler, Needs, ThenNeeds | None] | None]] = []
    needed: list[tuple[Model, Key]] = []
    later: list[tuple[Event, ThenNeeds]] = []
    for log, event in zip(logs, events, strict=True):
        found = None if event is None else _handlers.get((event.contract, event.name))
        known.append((log, event, found))
        if found is not None and event is not None:
            needed += found[1](event)
            if found[2] is not None:
                later.append((event, found[2]))
    rows.prefetch(needed)
    rows.prefetch(key for event, then in later for key in then(event, rows))
    for log, event, found in known:
        if event is None:
            _count_unknown(log, rows)
        elif found is not None:
            found[0](event, rows)


def _count_unknown(log: Log, rows: Rows) -> None:
    row = rows.ensure(UnknownEvent, log.address, log.topic0 or b"", count=0, first_block=log.block_number, last_block=0)
    row["count"] += 1
    row["last_block"] = log.block_number


def _nothing(_: Event) -> list[tuple[Model, Key]]:
    return []
