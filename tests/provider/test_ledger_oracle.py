"""The judge of the kill tests finds every ledger that is not what it must be."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from protocol.headers import Signed
from protocol.typed_data import Receipt
from provider.ledger import Ledger
from tests.provider.test_ledger import LEASE, NOW, admit, receipt, voucher
from tests.support.ledger_oracle import Contradiction, Evidence, judge
from tests.support.provider_stack import DOMAIN, OWNER, PROVIDER, SESSION

REQUESTS = 5


def made(path: Path) -> Evidence:
    """Five requests of two parts each, paid for and settled, anchored twice."""
    with closing(Ledger(path, DOMAIN, PROVIDER)) as ledger:
        evidence = Evidence(DOMAIN)
        for seq in range(REQUESTS):
            admit(ledger, seq, 10 * seq)
            for part in range(2):
                signed = receipt(seq, part, final=part == 1, cost=5 + 5 * part)
                ledger.record_receipt(signed)
                evidence.receipts.append(signed.encode())
            evidence.finals[LEASE, seq] = 10
            if seq in (2, 4):
                evidence.anchors.append((ledger.count, ledger.root()))
        ledger.record_voucher(voucher(50), OWNER, NOW)
        evidence.paid[LEASE] = evidence.settled[LEASE] = 50
        ledger.check()
    return evidence


def test_good_ledger_passes(tmp_path: Path) -> None:
    evidence = made(tmp_path / "ledger.sqlite")
    assert judge(tmp_path / "ledger.sqlite", evidence) == REQUESTS


def signed_anew(db: sqlite3.Connection) -> None:
    """As if the worker had signed the same end again after a restart, a second later."""
    message = receipt(2, 1, cost=10).message
    changed = Receipt(**{name: getattr(message, name) for name in Receipt.__slots__} | {"ended_at": NOW + 1})
    text = Signed(changed, SESSION.sign(DOMAIN, changed)).encode()
    db.execute("UPDATE receipts SET signed = ? WHERE seq = 2 AND part = 1", (text,))


def with_second_final(db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT INTO receipts (lease_id, seq, part, cost, digest, signed) VALUES (?, 3, 2, '10', ?, ?)",
        (LEASE, bytes(32), receipt(3, 2, cost=10).encode()),
    )


def with_swapped_leaves(db: sqlite3.Connection) -> None:
    db.execute("UPDATE receipts SET position = 99 WHERE position = 0")
    db.execute("UPDATE receipts SET position = 0 WHERE position = 1")
    db.execute("UPDATE receipts SET position = 1 WHERE position = 99")


WEAKENED: dict[str, tuple[Callable[[sqlite3.Connection], object], str]] = {
    "sent before the commit, lost with it": (
        lambda db: db.execute("DELETE FROM receipts WHERE seq = 4 AND part = 1"),
        "not in the ledger",
    ),
    "signed anew": (signed_anew, "not in the ledger"),
    "not recovered": (
        lambda db: db.execute("INSERT INTO requests VALUES (?, 77, ?, '1', 1)", (LEASE, bytes(32))),
        "request 77 has",
    ),
    "admission lost": (lambda db: db.execute("DELETE FROM requests WHERE seq = 1"), "never admitted"),
    "two finals": (with_second_final, "request 3 has not one final"),
    "billed twice": (lambda db: db.execute("UPDATE accounts SET served = '60'"), "not the sum of final receipts"),
    "voucher lost": (lambda db: db.execute("DELETE FROM vouchers WHERE cumulative = '50'"), "highest voucher"),
    "leaves in another order": (with_swapped_leaves, "has another root"),
    "leaf without a place": (
        lambda db: db.execute("UPDATE receipts SET position = NULL WHERE position = 4"),
        "one after another",
    ),
}


@pytest.mark.parametrize("name", WEAKENED)
def test_weakened_ledger_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / "ledger.sqlite"
    evidence = made(path)
    change, words = WEAKENED[name]
    with closing(sqlite3.connect(path)) as db:
        change(db)
        db.commit()
    with pytest.raises(Contradiction, match=words):
        judge(path, evidence)


def over_settled(evidence: Evidence) -> None:
    evidence.settled[LEASE] = 51


def paid_twice(evidence: Evidence) -> None:
    evidence.paid[LEASE] = 60


def other_cost(evidence: Evidence) -> None:
    evidence.finals[LEASE, 0] = 11


def forked(evidence: Evidence) -> None:
    evidence.anchors.append((REQUESTS, b"\x01" * 32))


def fallen_behind(evidence: Evidence) -> None:
    evidence.anchors.append((REQUESTS + 1, b"\x01" * 32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (over_settled, "settled more"),
        (paid_twice, "taken is not in the ledger"),
        (other_cost, "another cost"),
        (forked, "have the counts"),
        (fallen_behind, "the ledger has 5"),
    ],
)
def test_other_evidence_is_found(tmp_path: Path, change: Callable[[Evidence], None], words: str) -> None:
    evidence = made(tmp_path / "ledger.sqlite")
    change(evidence)
    with pytest.raises(Contradiction, match=words):
        judge(tmp_path / "ledger.sqlite", evidence)
