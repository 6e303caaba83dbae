"""Tables of the ledger. Amounts are decimal text: they exceed SQLite's 64-bit integers.

`vouchers`, `requests`, `receipts`, `nodes` and `anchors` are only ever appended to. `accounts`, `owners` and
`open_requests` are running totals of them, changed in the same transaction; `Ledger.check` recomputes them. They and
the partial indexes answer what is asked per request or per tick without reading what is settled and done.

`receipts` has a rowid on purpose: its rows are long, so that a table clustered by lease would have few keys a page.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SCHEMA_VERSION = 2

_ACCOUNTS = """
CREATE TABLE accounts (
    lease_id     BLOB PRIMARY KEY,
    owner        TEXT NOT NULL,     -- whose lease it is
    cumulative   TEXT NOT NULL,     -- of the highest voucher
    served       TEXT NOT NULL,     -- sum of the costs of final receipts
    settled      TEXT NOT NULL,     -- by the last settlement seen
    highest_seq  INTEGER NOT NULL,  -- of admitted requests, -1 before the first
    is_released  INTEGER NOT NULL,  -- on chain: nothing can be settled any more
    is_unsettled INTEGER NOT NULL,  -- cumulative > settled, and not released
    is_unpaid    INTEGER NOT NULL   -- served > cumulative
) WITHOUT ROWID;
CREATE INDEX accounts_unreleased ON accounts (lease_id) WHERE is_released = 0;
CREATE INDEX accounts_unsettled ON accounts (lease_id) WHERE is_unsettled = 1;
CREATE INDEX accounts_unpaid ON accounts (owner) WHERE is_unpaid = 1;

CREATE TABLE owners (
    owner   TEXT PRIMARY KEY,
    settled TEXT NOT NULL           -- on all leases
) WITHOUT ROWID;
"""

_OPEN_REQUESTS = """
CREATE TABLE open_requests (        -- admitted, without a final receipt
    lease_id BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    PRIMARY KEY (lease_id, seq)
) WITHOUT ROWID;
CREATE TABLE abandoned_requests (   -- open when the ledger was restored: another copy may have signed their end
    lease_id BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    PRIMARY KEY (lease_id, seq)
) WITHOUT ROWID;
"""

_RECEIPTS = """
CREATE TABLE receipts (
    id        INTEGER PRIMARY KEY,
    lease_id  BLOB NOT NULL,
    seq       INTEGER NOT NULL,
    part      INTEGER NOT NULL,
    cost      TEXT NOT NULL,
    digest    BLOB NOT NULL,        -- its leaf in the merkle mountain range, if final
    position  INTEGER,              -- place in the merkle mountain range, from 0, null unless final
    signed    TEXT NOT NULL,        -- as it is sent
    UNIQUE (lease_id, seq, part)
);
CREATE UNIQUE INDEX one_final_per_request ON receipts (lease_id, seq) WHERE position IS NOT NULL;
CREATE UNIQUE INDEX receipts_by_position ON receipts (position) WHERE position IS NOT NULL;
"""

SCHEMA = f"""
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
{_ACCOUNTS}
CREATE TABLE vouchers (
    id         INTEGER PRIMARY KEY,
    lease_id   BLOB NOT NULL,
    cumulative TEXT NOT NULL,
    signed     TEXT NOT NULL,       -- as it came
    stored_at  INTEGER NOT NULL
);
CREATE INDEX vouchers_by_lease ON vouchers (lease_id, id);

CREATE TABLE requests (
    lease_id     BLOB NOT NULL,
    seq          INTEGER NOT NULL,
    request_hash BLOB NOT NULL,
    max_cost     TEXT NOT NULL,
    sent_at      INTEGER NOT NULL,
    PRIMARY KEY (lease_id, seq)
) WITHOUT ROWID;
{_OPEN_REQUESTS}{_RECEIPTS}
CREATE TABLE nodes (
    level    INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash     BLOB NOT NULL,
    PRIMARY KEY (level, position)
) WITHOUT ROWID;

CREATE TABLE anchors (
    count      INTEGER PRIMARY KEY,
    prev_count INTEGER NOT NULL,
    prev_root  BLOB NOT NULL,
    signed     TEXT NOT NULL,
    signed_at  INTEGER NOT NULL
);

CREATE TABLE confirmed_anchors (
    count INTEGER PRIMARY KEY
);

CREATE TABLE settlements (
    id         INTEGER PRIMARY KEY,
    lease_id   BLOB NOT NULL,
    cumulative TEXT NOT NULL,
    settled_at INTEGER NOT NULL
);
CREATE INDEX settlements_by_lease ON settlements (lease_id, id);
"""


def create(db: sqlite3.Connection, identity: Mapping[str, str]) -> None:
    """All tables in an empty file and whose ledger it is, or nothing."""
    with _transaction(db):
        for statement in _statements(SCHEMA):
            db.execute(statement)
        rows = [*identity.items(), ("schema", str(SCHEMA_VERSION))]
        db.executemany("INSERT INTO meta VALUES (?, ?)", rows)


def migrate(db: sqlite3.Connection) -> None:
    """Version 1 to version 2, in one transaction: a start that is interrupted finds version 1 again."""
    with _transaction(db):
        _migrate(db)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _migrate(db: sqlite3.Connection) -> None:
    for statement in (
        "DROP INDEX one_final_per_request",
        "DROP INDEX accounts_by_owner",
        "ALTER TABLE receipts RENAME TO old_receipts",
        "ALTER TABLE accounts RENAME TO old_accounts",
        *_statements(_RECEIPTS + _ACCOUNTS + _OPEN_REQUESTS),
        "INSERT INTO receipts (lease_id, seq, part, cost, digest, position, signed) "
        "SELECT lease_id, seq, part, cost, digest, CASE final WHEN 1 THEN position END, signed "
        "FROM old_receipts LEFT JOIN leaves USING (lease_id, seq)",
        "INSERT INTO open_requests SELECT lease_id, seq FROM requests AS r WHERE NOT EXISTS "
        "(SELECT 1 FROM leaves AS l WHERE l.lease_id = r.lease_id AND l.seq = r.seq)",
        "DROP TABLE old_receipts",
        "DROP TABLE leaves",
    ):
        db.execute(statement)
    settled: dict[str, int] = {}
    for row in db.execute("SELECT lease_id, owner, cumulative, served, settled, highest_seq FROM old_accounts"):
        flags = (0, int(row[2]) > int(row[4]), int(row[3]) > int(row[2]))
        db.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *flags))
        settled[row[1]] = settled.get(row[1], 0) + int(row[4])
    db.executemany("INSERT INTO owners VALUES (?, ?)", [(owner, str(total)) for owner, total in settled.items()])
    db.execute("DROP TABLE old_accounts")
    db.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")


def _statements(script: str) -> list[str]:
    return [statement for statement in script.split(";") if statement.strip()]
