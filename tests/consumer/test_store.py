"""Numbers are given once, vouchers only rise, and all of it survives a restart."""

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.exceptions import LeaseExhausted, StoreError, StoreInUse
from consumer.records import Draft, LeaseRecord, Limits, RequestState
from consumer.store import Store
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
    opened.mark_open(LEASE)
    return opened


def book(store: Store) -> VoucherBook:
    return VoucherBook(DOMAIN, store, RECORD, SESSION, lambda: 1_700_000_000)


def draft(max_cost: int, prepaid: int = 0, request_hash: bytes = b"\x05" * 32) -> Draft:
    return Draft(b"{}", request_hash, b"\x06" * 32, max_cost, prepaid, Limits(3, 3, 10))


def receipt(seq: int, cost: int, *, final: bool = True, part: int = 0) -> Signed[Receipt]:
    message = Receipt(LEASE, seq, part, final, cost, 0, 0, 0, bytes(32), bytes(32), 0, 0, 1, b"\x09" * 32)
    return Signed(message, NODE.sign(DOMAIN, message))


def voucher(cumulative: int) -> Signed[Voucher]:
    message = Voucher(LEASE, cumulative, bytes(32))
    return Signed(message, SESSION.sign(DOMAIN, message))


def test_records_survive_reopening(store: Store, tmp_path: Path) -> None:
    context = asyncio.run(book(store).authorise(draft(100))).context
    assert (context.seq, context.sent_at, context.max_cost) == (0, 1_700_000_000, 100)
    store.record_receipt(receipt(0, 40))
    store.record_voucher(voucher(40))
    store.close()
    again = Store(tmp_path / "consumer.sqlite", DOMAIN)
    assert again.lease(LEASE) == RECORD
    assert again.leases() == [RECORD]
    assert (again.owed(LEASE), again.promised(LEASE)) == (40, 0)
    assert again.highest_voucher(LEASE) == voucher(40)
    assert again.final_receipt(LEASE, 0) == receipt(0, 40)
    assert asyncio.run(book(again).authorise(draft(100))).context.seq == 1
    again.close()


def test_unopened_leases_are_kept_apart(store: Store) -> None:
    other = replace(RECORD, lease_id=b"\x02" * 32)
    store.add_lease(other)
    assert (store.leases(), store.leases(is_open=False)) == ([RECORD], [other])
    store.drop_lease(LEASE)
    store.drop_lease(other.lease_id)
    assert (store.leases(), store.leases(is_open=False)) == ([RECORD], [])


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
    first = await vouchers.authorise(draft(100))
    second = await vouchers.authorise(draft(100, request_hash=b"\x07" * 32))
    assert [a.context.seq for a in (first, second)] == [0, 1]
    assert first.voucher.message == Voucher(LEASE, 0, first.context.context)
    for checked, cumulative in ((receipt(0, 30, final=False), 30), (receipt(1, 25), 55), (receipt(0, 33, part=1), 58)):
        await vouchers.pay(checked)
        assert (vouchers.owed, vouchers.is_behind) == (cumulative, True)
        paid = await vouchers.voucher()
        assert (paid.message.cumulative, vouchers.is_behind) == (cumulative, False)
        assert await vouchers.voucher() is paid
    assert store.highest_voucher(LEASE) == paid
    paid.verify(DOMAIN, SESSION.address)


async def test_looking_beside_its_user_writes_nothing(store: Store, tmp_path: Path) -> None:
    await book(store).authorise(draft(100))
    with pytest.raises(StoreInUse):
        Store(tmp_path / "consumer.sqlite", DOMAIN)
    beside = Store(tmp_path / "consumer.sqlite", DOMAIN, only_reads=True)
    assert beside.open_costs(LEASE) == store.open_costs(LEASE) != {}
    with pytest.raises(StoreError, match="cannot be written"):
        beside.mark_open(LEASE)
    beside.close()
    with pytest.raises(StoreInUse):
        Store(tmp_path / "consumer.sqlite", DOMAIN)


async def test_deposit_bounds_what_is_authorised(store: Store) -> None:
    vouchers = book(store)
    await vouchers.authorise(draft(600))
    with pytest.raises(LeaseExhausted):
        await vouchers.authorise(draft(401))
    await vouchers.authorise(draft(400))


async def test_refused_requests_free_what_they_promised(store: Store) -> None:
    vouchers = book(store)
    refused = await vouchers.authorise(draft(1_000))
    await vouchers.refused(refused.context.seq)
    following = await vouchers.authorise(draft(1_000))
    assert following.context.seq == refused.context.seq + 1


async def test_prepayment_is_carried_forward(store: Store) -> None:
    vouchers = book(store)
    prepaid = await vouchers.authorise(draft(300, 120))
    assert prepaid.voucher.message.cumulative == 120
    # the request cost less than was paid ahead: the voucher stays, the next request uses the rest
    await vouchers.pay(receipt(0, 50))
    assert (await vouchers.voucher()).message.cumulative == 120
    assert (await vouchers.authorise(draft(300))).voucher.message.cumulative == 120
    await vouchers.pay(receipt(1, 100))
    assert (await vouchers.voucher()).message.cumulative == 150


async def test_open_requests_keep_what_a_repeat_needs(store: Store, tmp_path: Path) -> None:
    authorised = await book(store).authorise(draft(100))
    seq = authorised.context.seq
    store.admitted(LEASE, seq)
    store.record_receipt(receipt(seq, 30, final=False))
    store.close()
    again = Store(tmp_path / "consumer.sqlite", DOMAIN)
    (found,) = again.unfinished(LEASE)
    assert (found.state, found.body, found.limits) == (RequestState.ADMITTED, b"{}", Limits(3, 3, 10))
    assert (found.context, found.voucher) == (authorised.context, authorised.voucher)
    assert found.last == receipt(seq, 30, final=False)
    assert again.promised(LEASE) == 70
    again.record_receipt(receipt(seq, 40, part=1))
    assert (again.unfinished(LEASE), again.promised(LEASE), again.owed(LEASE)) == ([], 0, 40)
    assert again.state(LEASE, seq) is RequestState.SETTLED
    again.close()


@pytest.mark.parametrize("end", ["receipt", "release", "dispute"])
def test_prompts_are_erased_once_the_end_is_known(store: Store, tmp_path: Path, end: str) -> None:
    secret = b'{"messages":[{"role":"user","content":"my secret"}]}'
    seq = asyncio.run(book(store).authorise(replace(draft(100), body=secret))).context.seq
    assert any(b"my secret" in path.read_bytes() for path in tmp_path.iterdir())
    if end == "receipt":
        store.record_receipt(receipt(seq, 30))
    elif end == "release":
        store.release(LEASE, seq)
    else:
        store.dispute(LEASE, seq)
    store.close()
    assert all(b"my secret" not in path.read_bytes() for path in tmp_path.iterdir())


async def test_a_request_is_signed_for_once(store: Store) -> None:
    authorised = await book(store).authorise(draft(100))
    other = Voucher(LEASE, 0, b"\x07" * 32)
    with pytest.raises(StoreError, match="has its voucher"):
        store.authorise(draft(100), authorised.context, Signed(other, SESSION.sign(DOMAIN, other)))
    assert store.highest_voucher(LEASE) == authorised.voucher


async def test_what_is_over_stays_over(store: Store) -> None:
    authorised = await book(store).authorise(draft(100))
    seq = authorised.context.seq
    store.record_receipt(receipt(seq, 30))
    store.release(LEASE, seq)
    store.dispute(LEASE, seq)
    store.admitted(LEASE, seq)
    assert (store.state(LEASE, seq), store.owed(LEASE)) == (RequestState.SETTLED, 30)


def test_store_of_another_version_is_refused(store: Store, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(tmp_path / "consumer.sqlite") as database:
        database.execute("PRAGMA user_version = 1")
    database.close()
    with pytest.raises(StoreError, match="another version"):
        Store(tmp_path / "consumer.sqlite", DOMAIN)
