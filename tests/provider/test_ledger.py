"""The ledger keeps every statement once, and totals and merkle range with it."""

import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.headers import SEQ_WINDOW, Signed
from protocol.merkle import MountainRange, verify_inclusion
from protocol.typed_data import Anchor, Domain, Receipt, Voucher, digest
from provider.exceptions import LedgerError
from provider.ledger import AdmittedRequest, Ledger, StoredAnchor
from tests.support.provider_stack import DOMAIN, NODE, OWNER, PROVIDER, SESSION

LEASE = b"\x01" * 32
NOW = 1_700_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", DOMAIN, PROVIDER)


def voucher(cumulative: int, lease: bytes = LEASE) -> Signed[Voucher]:
    message = Voucher(lease, cumulative, bytes(32))
    return Signed(message, SESSION.sign(DOMAIN, message))


def receipt(
    seq: int = 0, part: int = 0, *, final: bool = True, cost: int = 10, lease: bytes = LEASE
) -> Signed[Receipt]:
    message = Receipt(lease, seq, part, final, cost, 1, 2, 3, b"\x05" * 32, b"\x06" * 32, 7, 8, NOW, b"\x09" * 32)
    return Signed(message, NODE.sign(DOMAIN, message))


def admit(ledger: Ledger, seq: int = 0, cumulative: int = 0, lease: bytes = LEASE) -> None:
    ledger.admit(AdmittedRequest(lease, seq, b"\x05" * 32, 100, NOW), voucher(cumulative, lease), OWNER, NOW)


def test_receipt_comes_back_byte_for_byte_after_reopening(ledger: Ledger, tmp_path: Path) -> None:
    admit(ledger)
    stored = receipt()
    ledger.record_receipt(stored)
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite", DOMAIN, PROVIDER)
    found = again.final_receipt(LEASE, 0)
    assert found is not None
    assert found.encode() == stored.encode()
    assert again.account(LEASE).served == 10
    assert again.count == 1
    again.check()
    again.close()


def test_request_needs_admission_and_gets_one_final(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="never admitted"):
        ledger.record_receipt(receipt())
    admit(ledger)
    with pytest.raises(LedgerError, match="is used"):
        admit(ledger)
    ledger.record_receipt(receipt(part=0, final=False))
    with pytest.raises(LedgerError, match="part 0"):
        ledger.record_receipt(receipt(part=0, final=False, cost=11))
    assert [request.seq for request in ledger.unfinished()] == [0]
    ledger.record_receipt(receipt(part=1))
    assert ledger.unfinished() == []
    for part in (1, 2):
        with pytest.raises(LedgerError, match="already has its final"):
            ledger.record_receipt(receipt(part=part))
    assert ledger.count == 1
    ledger.check()


def test_seq_window_closes_behind_the_highest(ledger: Ledger) -> None:
    admit(ledger, 5_000)
    admit(ledger, 5_001 - SEQ_WINDOW)
    with pytest.raises(LedgerError, match="behind"):
        admit(ledger, 5_000 - SEQ_WINDOW)
    assert ledger.account(LEASE).highest_seq == 5_000


def test_vouchers_only_rise(ledger: Ledger) -> None:
    assert ledger.record_voucher(voucher(10), OWNER, NOW)
    assert not ledger.record_voucher(voucher(10), OWNER, NOW)
    assert not ledger.record_voucher(voucher(9), OWNER, NOW)
    assert ledger.record_voucher(voucher(2**96), OWNER, NOW)
    highest = ledger.highest_voucher(LEASE)
    assert highest is not None
    assert highest == voucher(2**96)
    assert ledger.account(LEASE).cumulative == 2**96


def test_settlements_count_for_their_owner(ledger: Ledger) -> None:
    other = b"\x02" * 32
    ledger.record_voucher(voucher(10), OWNER, NOW)
    ledger.record_voucher(voucher(30, other), OWNER, NOW)
    assert ledger.last_settlement(LEASE) == (0, NOW)
    ledger.record_settlement(LEASE, 10, NOW + 5)
    ledger.record_settlement(other, 20, NOW + 6)
    assert ledger.settled_with(OWNER) == 30
    assert ledger.settled_with("0x" + "0" * 40) == 0
    assert ledger.unsettled() == [other]
    assert ledger.last_settlement(LEASE) == (10, NOW + 5)


def test_settlement_that_was_less_than_noted_is_owed_again(ledger: Ledger) -> None:
    ledger.record_voucher(voucher(2**90), OWNER, NOW)
    ledger.record_settlement(LEASE, 10, NOW + 5)
    ledger.record_settlement(LEASE, 2**90, NOW + 6)
    assert ledger.unsettled() == []
    ledger.record_settlement(LEASE, 12, NOW + 7)
    assert (ledger.unsettled(), ledger.settled_with(OWNER)) == ([LEASE], 12)
    assert ledger.last_settlement(LEASE) == (12, NOW + 7)
    ledger.record_settlement(LEASE, 10, NOW + 8)
    assert ledger.last_settlement(LEASE) == (10, NOW + 5), "waiting counts from what holds"
    ledger.record_settlement(LEASE, 0, NOW + 9)
    assert ledger.last_settlement(LEASE) == (0, NOW)
    assert (ledger.settled_with(OWNER), ledger.account(LEASE).settled) == (0, 0)
    ledger.check()


def test_abandoned_request_is_never_signed_for(ledger: Ledger) -> None:
    admit(ledger, 0)
    admit(ledger, 1)
    ledger.record_receipt(receipt(0))
    assert ledger.abandon_open() == 1
    assert ledger.abandon_open() == 0
    assert ledger.unfinished() == []
    for part in (0, 1):
        with pytest.raises(LedgerError, match="abandoned when the ledger was restored"):
            ledger.record_receipt(receipt(1, part))
    with pytest.raises(LedgerError, match="is used"):
        admit(ledger, 1)
    ledger.check()


def test_released_leases_are_out_of_the_way(ledger: Ledger) -> None:
    other = b"\x02" * 32
    ledger.record_voucher(voucher(10), OWNER, NOW)
    ledger.record_voucher(voucher(30, other), OWNER, NOW)
    ledger.record_settlement(LEASE, 4, NOW)
    ledger.record_release(LEASE)
    assert ledger.unreleased() == ledger.unsettled() == [other]
    assert ledger.account(LEASE).is_released
    assert ledger.settled_with(OWNER) == 4
    ledger.check()


@pytest.mark.parametrize("by_request", [False, True])
def test_lease_that_gives_a_voucher_is_not_released(ledger: Ledger, by_request: bool) -> None:
    ledger.record_voucher(voucher(10), OWNER, NOW)
    ledger.record_release(LEASE)
    if by_request:
        admit(ledger)
    else:
        ledger.record_voucher(voucher(11), OWNER, NOW)
    assert ledger.unreleased() == ledger.unsettled() == [LEASE]


def test_unpaid_is_what_was_served_above_the_vouchers(ledger: Ledger) -> None:
    admit(ledger, 0)
    assert ledger.unpaid_of(OWNER) == {}
    ledger.record_receipt(receipt(cost=10))
    assert ledger.unpaid_of(OWNER) == {LEASE: 10}
    ledger.record_voucher(voucher(7), OWNER, NOW)
    assert ledger.unpaid_of(OWNER) == {LEASE: 3}
    ledger.record_voucher(voucher(10), OWNER, NOW)
    assert ledger.unpaid_of(OWNER) == {}


def test_what_is_asked_per_request_and_tick_reads_no_table_in_full(ledger: Ledger) -> None:
    """The positive control is a question that no index answers."""

    def scans(query: Callable[[], object]) -> list[str]:
        statements: list[str] = []
        ledger._db.set_trace_callback(statements.append)
        query()
        ledger._db.set_trace_callback(None)
        plans = [row[3] for text in statements for row in ledger._db.execute(f"EXPLAIN QUERY PLAN {text}")]
        return [plan for plan in plans if plan.startswith("SCAN") and "INDEX" not in plan]

    for query in (
        lambda: ledger.account(LEASE),
        ledger.unreleased,
        ledger.unsettled,
        lambda: ledger.settled_with(OWNER),
        lambda: ledger.unpaid_of(OWNER),
        lambda: ledger.highest_voucher(LEASE),
        lambda: ledger.request(LEASE, 1),
        lambda: ledger.final_receipt(LEASE, 1),
        lambda: ledger.last_receipt(LEASE, 1),
        lambda: ledger.position(LEASE, 1),
        lambda: ledger.last_settlement(LEASE),
    ):
        assert scans(query) == []
    assert scans(ledger.unfinished) == ["SCAN open_requests"]
    assert scans(lambda: ledger._db.execute("SELECT * FROM receipts WHERE cost = '1'").fetchall()) == ["SCAN receipts"]


def test_every_receipt_is_provable_under_every_later_root(ledger: Ledger) -> None:
    stored = []
    for seq in range(11):
        admit(ledger, seq)
        stored.append(receipt(seq, cost=seq))
        ledger.record_receipt(stored[-1])
    for count in range(1, 12):
        for position in range(count):
            proof = ledger.inclusion_proof(position, count)
            verify_inclusion(digest(DOMAIN, stored[position].message), position, count, proof, ledger.root(count))
    assert ledger.position(LEASE, 4) == 4
    assert ledger.position(LEASE, 99) is None


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 50)), max_size=25))
def test_range_is_that_of_the_final_receipts(steps: list[tuple[int, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Ledger(Path(folder) / "ledger", DOMAIN, PROVIDER)) as ledger:
        check_steps(ledger, steps)


def check_steps(ledger: Ledger, steps: list[tuple[int, int, int]]) -> None:
    expected, served = MountainRange(), 0
    for kind, seq, cost in steps:
        try:
            if kind == 0:
                admit(ledger, seq, cost)
            else:
                ledger.record_receipt(receipt(seq, cost, final=kind == 2, cost=cost))
                if kind == 2:
                    expected.append(digest(DOMAIN, receipt(seq, cost, cost=cost).message))
                    served += cost
        except LedgerError:
            pass
        ledger.check()
    assert (ledger.count, ledger.root()) == (expected.count, expected.root())
    assert ledger.account(LEASE).served == served


def test_failed_write_leaves_nothing_behind(ledger: Ledger) -> None:
    admit(ledger)
    ledger._db.execute("CREATE TRIGGER full BEFORE INSERT ON nodes BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record_receipt(receipt())
    ledger._db.execute("DROP TRIGGER full")
    assert (ledger.count, ledger.final_receipt(LEASE, 0), ledger.account(LEASE).served) == (0, None, 0)
    ledger.record_receipt(receipt())
    ledger.check()


def test_check_notices_a_changed_row(ledger: Ledger) -> None:
    admit(ledger)
    ledger.record_receipt(receipt())
    ledger._db.execute("UPDATE receipts SET cost = '11'")
    with pytest.raises(LedgerError, match="totals"):
        ledger.check()


@pytest.mark.parametrize(
    ("domain", "provider"),
    [(replace(DOMAIN, chain_id=1), PROVIDER), (Domain(31337, "0x" + "1" * 40), PROVIDER), (DOMAIN, 8)],
)
def test_foreign_ledger_is_refused(ledger: Ledger, tmp_path: Path, domain: Domain, provider: int) -> None:
    ledger.close()
    with pytest.raises(LedgerError, match="belongs to another"):
        Ledger(tmp_path / "ledger.sqlite", domain, provider)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(path, DOMAIN, PROVIDER)


def test_check_notices_a_lost_total(ledger: Ledger) -> None:
    admit(ledger)
    ledger.record_settlement(LEASE, 10, NOW)
    ledger._db.execute("UPDATE owners SET settled = '9'")
    with pytest.raises(LedgerError, match="settled total"):
        ledger.check()


def test_check_notices_a_forgotten_request(ledger: Ledger) -> None:
    admit(ledger)
    ledger._db.execute("DELETE FROM open_requests")
    with pytest.raises(LedgerError, match="neither open nor ended"):
        ledger.check()


def test_anchors_are_kept_once_per_count(ledger: Ledger) -> None:
    def stored(count: int) -> StoredAnchor:
        anchor = Anchor(PROVIDER, count, bytes([count]) * 32)
        return StoredAnchor(Signed(anchor, NODE.sign(DOMAIN, anchor)), count - 1, bytes(32))

    ledger.record_anchor(stored(1), NOW)
    ledger.record_anchor(stored(2), NOW)
    ledger.confirm_anchor(1)
    assert ledger.last_anchor() == stored(2)
    assert ledger.last_anchor(confirmed=True) == stored(1)
    ledger.confirm_anchor(2)
    ledger.unconfirm_anchors(1)
    assert ledger.last_anchor(confirmed=True) == stored(1)
    ledger.unconfirm_anchors(0)
    assert ledger.last_anchor(confirmed=True) is None
    assert ledger.last_anchor() == stored(2)
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record_anchor(stored(2), NOW)
