"""Tables of the ledger. Amounts are decimal text: they exceed SQLite's 64-bit integers.

`vouchers`, `requests`, `receipts`, `leaves`, `nodes` and `anchors` are only ever appended to. `accounts` holds running
totals of them, changed in the same transaction; `Ledger.check` recomputes it.
"""

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE accounts (
    lease_id     BLOB PRIMARY KEY,
    owner        TEXT NOT NULL,     -- whose lease it is
    cumulative   TEXT NOT NULL,     -- of the highest voucher
    served       TEXT NOT NULL,     -- sum of the costs of final receipts
    settled      TEXT NOT NULL,     -- by the last settlement seen
    highest_seq  INTEGER NOT NULL   -- of admitted requests, -1 before the first
) WITHOUT ROWID;
CREATE INDEX accounts_by_owner ON accounts (owner);

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

CREATE TABLE receipts (
    lease_id  BLOB NOT NULL,
    seq       INTEGER NOT NULL,
    part      INTEGER NOT NULL,
    final     INTEGER NOT NULL,
    cost      TEXT NOT NULL,
    digest    BLOB NOT NULL,        -- its leaf in the merkle mountain range, if final
    signed    TEXT NOT NULL,        -- as it is sent
    PRIMARY KEY (lease_id, seq, part)
) WITHOUT ROWID;
CREATE UNIQUE INDEX one_final_per_request ON receipts (lease_id, seq) WHERE final = 1;

CREATE TABLE leaves (
    position INTEGER PRIMARY KEY,   -- place in the merkle mountain range, from 0
    lease_id BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    UNIQUE (lease_id, seq)
);

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
