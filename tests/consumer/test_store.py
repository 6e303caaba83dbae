"""Numbers are given once, vouchers only rise, and all of it survives a restart."""

from dataclasses import replace
from pathlib import Path

import pytest

from consumer.exceptions import LeaseExhausted, StoreError
from consumer.store import LeaseRecord, Store
from consumer.vouchers import VoucherBook
from protocol.headers import Signed
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt, Terms, Voucher

DOMAIN = Domain(31337, "0x5FC8d32690cc91D4c39d9d3abcBD16989F875707")
SESSION, NODE = Signer(b"\x22" * 32), Signer(b"\x11" * 32)
LEASE = b"\x01" * 32
ADDRESS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
RECORD = LeaseRecord(
    lease_id=LEASE,
    owner=ADDRESS,
    provider=7,
    offer_id=1,
    version=1,
    token=ADDRESS,
    deposit=1_000,
    expiry=2_000_000_000,
    signer=SESSION.address,
    key_file="session.json",
    endpoint="http://127.0.0.1:1",
    node_key=NODE.address,
    model="tiny",
    fingerprint=b"\x09" * 32,
    terms=Terms(0, ADDRESS, 10, 30, 5, 1, 0, 0, 0, 0, b"\x08" * 32),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(tmp_path / "consumer.sqlite", DOMAIN)
    opened.add_lease(RECORD)
    return opened


def book(store: Store) -> VoucherBook:
    return VoucherBook(DOMAIN, store, RECORD, SESSION, lambda: 1_700_000_000)


def receipt(seq: int, cost: int, *, final: bool = True, part: int = 0) -> Signed[Receipt]:
    message = Receipt(LEASE, seq, part, final, cost, 0, 0, 0, bytes(32), bytes(32), 0, 0, 1, b"\x09" * 32)
    return Signed(message, NODE.sign(DOMAIN, message))


def voucher(cumulative: int) -> Signed[Voucher]:
    message = Voucher(LEASE, cumulative, bytes(32))
    return Signed(message, SESSION.sign(DOMAIN, message))


def test_records_survive_reopening(store: Store, tmp_path: Path) -> None:
    assert store.reserve(LEASE, 100, 0) == 0
    store.record_receipt(receipt(0, 40))
    store.record_voucher(voucher(40))
    store.close()
    again = Store(tmp_path / "consumer.sqlite", DOMAIN)
    assert again.lease(LEASE) == RECORD
    assert again.leases() == [RECORD]
    assert (again.owed(LEASE), again.promised(LEASE)) == (40, 0)
    assert again.highest_voucher(LEASE) == voucher(40)
    assert again.final_receipt(LEASE, 0) == receipt(0, 40)
    assert again.reserve(LEASE, 100, 0) == 1
    again.close()


def test_vouchers_never_fall(store: Store) -> None:
    store.record_voucher(voucher(40))
    store.record_voucher(voucher(40))
    with pytest.raises(StoreError, match="lower"):
        store.record_voucher(voucher(39))


@pytest.mark.parametrize("domain", [replace(DOMAIN, chain_id=1), Domain(31337, "0x" + "1" * 40)])
def test_foreign_store_is_refused(store: Store, tmp_path: Path, domain: Domain) -> None:
    store.close()
    with pytest.raises(StoreError, match="another deployment"):
        Store(tmp_path / "consumer.sqlite", domain)


def test_damaged_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "consumer.sqlite").write_bytes(b"no database" * 500)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "consumer.sqlite", DOMAIN)


async def test_vouchers_are_exact_and_on_disk_first(store: Store) -> None:
    vouchers = book(store)
    first = await vouchers.authorise(b"\x05" * 32, b"\x06" * 32, 100, 0)
    second = await vouchers.authorise(b"\x07" * 32, b"\x06" * 32, 100, 0)
    assert [a.context.seq for a in (first, second)] == [0, 1]
    assert first.voucher.message == Voucher(LEASE, 0, first.context.context)
    paid = await vouchers.pay(receipt(0, 30, final=False))
    assert paid.message.cumulative == 30
    paid = await vouchers.pay(receipt(1, 25))
    assert paid.message.cumulative == 55
    paid = await vouchers.pay(receipt(0, 33, part=1))
    assert paid.message.cumulative == 58
    assert store.highest_voucher(LEASE) == paid
    paid.verify(DOMAIN, SESSION.address)


async def test_deposit_bounds_what_is_authorised(store: Store) -> None:
    vouchers = book(store)
    await vouchers.authorise(bytes(32), bytes(32), 600, 0)
    with pytest.raises(LeaseExhausted):
        await vouchers.authorise(bytes(32), bytes(32), 401, 0)
    await vouchers.authorise(bytes(32), bytes(32), 400, 0)


async def test_refused_requests_free_what_they_promised(store: Store) -> None:
    vouchers = book(store)
    refused = await vouchers.authorise(bytes(32), bytes(32), 1_000, 0)
    await vouchers.refused(refused.context.seq)
    following = await vouchers.authorise(bytes(32), bytes(32), 1_000, 0)
    assert following.context.seq == refused.context.seq + 1


async def test_prepayment_is_carried_forward(store: Store) -> None:
    vouchers = book(store)
    prepaid = await vouchers.authorise(bytes(32), bytes(32), 300, 120)
    assert prepaid.voucher.message.cumulative == 120
    # the request cost less than was paid ahead: the voucher stays, the next request uses the rest
    assert (await vouchers.pay(receipt(0, 50))).message.cumulative == 120
    assert (await vouchers.authorise(bytes(32), bytes(32), 300, 0)).voucher.message.cumulative == 120
    assert (await vouchers.pay(receipt(1, 100))).message.cumulative == 150
