"""A ledger file of version 1 becomes one of version 2, with every statement in its place."""

import sqlite3
from pathlib import Path

import pytest

from protocol.merkle import MountainRange, verify_inclusion
from protocol.typed_data import digest
from provider.exceptions import LedgerError
from provider.ledger import Account, Ledger
from tests.provider.test_ledger import LEASE, NOW, admit, receipt, voucher
from tests.support.provider_stack import DOMAIN, OWNER, PROVIDER

OTHER = b"\x02" * 32
SCHEMA_1 = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE accounts (
    lease_id     BLOB PRIMARY KEY,
    owner        TEXT NOT NULL,
    cumulative   TEXT NOT NULL,
    served       TEXT NOT NULL,
    settled      TEXT NOT NULL,
    highest_seq  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX accounts_by_owner ON accounts (owner);

CREATE TABLE vouchers (
    id         INTEGER PRIMARY KEY,
    lease_id   BLOB NOT NULL,
    cumulative TEXT NOT NULL,
    signed     TEXT NOT NULL,
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
    digest    BLOB NOT NULL,
    signed    TEXT NOT NULL,
    PRIMARY KEY (lease_id, seq, part)
) WITHOUT ROWID;
CREATE UNIQUE INDEX one_final_per_request ON receipts (lease_id, seq) WHERE final = 1;

CREATE TABLE leaves (
    position INTEGER PRIMARY KEY,
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


class Nodes:
    """What version 1 wrote into its table of nodes."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def get(self, level: int, index: int) -> bytes:
        found: bytes = self._db.execute(
            "SELECT hash FROM nodes WHERE level = ? AND position = ?", (level, index)
        ).fetchone()[0]
        return found

    def put(self, level: int, index: int, node: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", (level, index, node))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Seven finished requests of two leases, one that is open with a part, one anchor's worth of nodes."""
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_1)
    identity = {"schema": "1", "chain_id": str(DOMAIN.chain_id), "escrow": DOMAIN.escrow, "provider": str(PROVIDER)}
    db.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
    grown = MountainRange(Nodes(db))
    finals = [(LEASE if seq % 2 else OTHER, seq) for seq in range(7)]
    for lease, seq in [*finals, (LEASE, 7)]:
        db.execute("INSERT INTO requests VALUES (?, ?, ?, '100', ?)", (lease, seq, b"\x05" * 32, NOW))
        for part in range(2):
            signed = receipt(seq, part, final=part == 1, cost=5 + 5 * part, lease=lease)
            if part == 1 and seq == 7:
                continue
            hashed = digest(DOMAIN, signed.message)
            row = (lease, seq, part, part, str(signed.message.cost), hashed, signed.encode())
            db.execute("INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            if part == 1:
                db.execute("INSERT INTO leaves VALUES (?, ?, ?)", (grown.append(hashed), lease, seq))
    for lease, cumulative, settled in ((LEASE, 30, 10), (OTHER, 30, 30)):
        db.execute(
            "INSERT INTO vouchers (lease_id, cumulative, signed, stored_at) VALUES (?, ?, ?, ?)",
            (lease, str(cumulative), voucher(cumulative, lease).encode(), NOW),
        )
        served = sum(10 for found, _ in finals if found == lease)
        row2 = (lease, OWNER, str(cumulative), str(served), str(settled), 7 if lease == LEASE else 6)
        db.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?)", row2)
    db.commit()
    db.close()
    return path


def test_everything_is_there_afterwards(path: Path) -> None:
    for _ in range(2):
        ledger = Ledger(path, DOMAIN, PROVIDER)
        ledger.check()
        assert ledger.count == 7
        assert ledger.account(LEASE) == Account(OWNER, 30, 30, 10, 7)
        assert ledger.account(OTHER) == Account(OWNER, 30, 40, 30, 6)
        assert ledger.settled_with(OWNER) == 40
        assert ledger.unsettled() == [LEASE]
        assert ledger.unpaid_of(OWNER) == {OTHER: 10}
        assert [request.seq for request in ledger.unfinished()] == [7]
        last = ledger.last_receipt(LEASE, 7)
        assert last is not None
        assert last.encode() == receipt(7, 0, final=False, cost=5).encode()
        for seq in range(7):
            lease = LEASE if seq % 2 else OTHER
            final = ledger.final_receipt(lease, seq)
            assert final is not None
            assert final.encode() == receipt(seq, 1, cost=10, lease=lease).encode()
            proof = ledger.inclusion_proof(seq, 7)
            verify_inclusion(digest(DOMAIN, final.message), seq, 7, proof, ledger.root())
        ledger.close()


def test_it_goes_on_where_it_was(path: Path) -> None:
    ledger = Ledger(path, DOMAIN, PROVIDER)
    ledger.record_receipt(receipt(7, 1, cost=20))
    admit(ledger, 8, 50)
    assert ledger.count == 8
    assert ledger.position(LEASE, 7) == 7
    ledger.check()


def test_interrupted_migration_leaves_version_1(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sqlite3.connect(path).execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    monkeypatch.setattr("provider.ledger_schema._RECEIPTS", "CREATE TABLE receipts (broken")
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(path, DOMAIN, PROVIDER)
    assert sqlite3.connect(path).execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before
    monkeypatch.undo()
    Ledger(path, DOMAIN, PROVIDER).check()


def test_newer_version_is_refused(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("UPDATE meta SET value = '3' WHERE key = 'schema'")
    db.commit()
    with pytest.raises(LedgerError, match="newer version"):
        Ledger(path, DOMAIN, PROVIDER)
