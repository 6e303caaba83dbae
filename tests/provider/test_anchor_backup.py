"""The backup before each anchor, as the worker makes it: whatever is lost when, the newest copy can be served with."""

import shutil
import sqlite3
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from protocol import keystore
from protocol.chain.clock import MarketClock
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.headers import parse_anchor
from protocol.typed_data import Anchor
from provider.anchoring import Anchoring, anchor_word
from provider.backup import LEDGER_FILE, OFFERS_FOLDER, SENDER_FILE, Backups
from provider.exceptions import BackupError
from provider.exposure import CreditPolicy
from provider.leases import LeaseCache
from provider.market import Market
from provider.models.pool import ModelPool
from provider.offers import OfferBook
from provider.restoring import restore
from provider.service import InferenceService, ServiceSettings
from tests.support.live_market import PASSWORD, SCRYPT_N, LiveMarket, live_market
from tests.support.promised import PROMISED
from tests.support.shop import Shop, open_shop


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture
def shop(market: LiveMarket, tmp_path: Path) -> Iterator[Shop]:
    yield open_shop(market, tmp_path / "provider")
    market.node.automine(True)


@asynccontextmanager
async def anchoring(shop: Shop, save: Callable[[], object]) -> AsyncIterator[Anchoring]:
    """The worker's, on the shop's own files."""
    client, data = shop.market.client, shop.config.provider.data
    operator = keystore.load(shop.config.provider.operator_key, PASSWORD)
    market = Market(client, MarketClock())
    service = InferenceService(
        domain=shop.market.domain,
        provider=shop.provider,
        signer=shop.node(),
        ledger=shop.ledger(),
        leases=LeaseCache(market.lease, 0.0),
        offers=OfferBook(data / OFFERS_FOLDER),
        backends=ModelPool({}, 0),
        clock=market.clock,
        sandbox=PROMISED,
        settings=ServiceSettings(CreditPolicy(2_000)),
    )
    with TransactionSender(client, operator, data / SENDER_FILE, SenderPolicy(poll_s=0.02)) as sender:
        yield Anchoring(service, client, sender, shop.node(), save)
        await service.stop()
        service.ledger.close()


async def tick(shop: Shop, job: Anchoring) -> Anchor | None:
    """One tick, and a block with what it sent: anvil answers before it has mined."""
    found = await job.tick()
    shop.market.node.mine()
    return found


def copies_of(shop: Shop) -> Path:
    return shop.folder.with_name("copies")


def backups(shop: Shop) -> Backups:
    return Backups(shop.config, copies_of(shop), 3, shop.node())


def serve(shop: Shop, lease_id: bytes, seq: int) -> None:
    """One more final receipt."""
    shop.admit(lease_id, seq)
    shop.finish(lease_id, seq)


def newest(shop: Shop) -> Path:
    return max(copies_of(shop).iterdir())


def anchors_in(archive: Path, folder: Path) -> list[Anchor]:
    """What the copy of the ledger in an archive has signed."""
    target = folder / "copied.sqlite"
    with tarfile.open(archive) as packed:
        member = packed.extractfile(f"data/{LEDGER_FILE}")
        assert member is not None
        target.write_bytes(member.read())
    with closing(sqlite3.connect(target)) as db:
        return [parse_anchor(text).message for (text,) in db.execute("SELECT signed FROM anchors ORDER BY count")]


def bring_back(shop: Shop) -> None:
    """From the newest copy, after the folder was lost."""
    shutil.rmtree(shop.folder)
    restore(newest(shop), shop.folder, shop.owner_key, PASSWORD, lambda _: None, SCRYPT_N)


async def test_copy_has_the_anchor_before_it_leaves_and_is_made_once(shop: Shop, tmp_path: Path) -> None:
    market = shop.market
    lease_id = shop.open_lease()
    serve(shop, lease_id, 0)
    operator = shop.enrolment.operator
    sent_before: list[int] = []

    def save() -> Path:
        sent_before.append(market.client.transaction_count(operator, "pending"))
        return backups(shop).take()

    market.node.automine(False)
    async with anchoring(shop, save) as job:
        for _ in range(3):
            await job.tick()
        assert market.client.transaction_count(operator, "pending") == 1
        assert sent_before == [0]
        (anchor,) = anchors_in(newest(shop), tmp_path)
        market.node.mine()
        assert await job.tick() == anchor
        assert shop.anchored() == anchor_word(anchor)
        market.node.automine(True)
        serve(shop, lease_id, 1)
    async with anchoring(shop, save) as job:
        await job.tick()
        assert sent_before == [0, 1]
        assert len(anchors_in(newest(shop), tmp_path)) == 2


async def test_without_a_copy_no_anchor_leaves(shop: Shop) -> None:
    lease_id = shop.open_lease()
    serve(shop, lease_id, 0)
    copies_of(shop).write_text("in the way")
    async with anchoring(shop, backups(shop).take) as job:
        for _ in range(2):
            with pytest.raises(BackupError, match="cannot be made"):
                await tick(shop, job)
        assert shop.anchored() == bytes(32)
        with closing(shop.ledger()) as ledger:
            signed = list(ledger.anchors())
        assert [anchor.count for anchor in signed] == [1]
        copies_of(shop).unlink()
        serve(shop, lease_id, 1)
        await tick(shop, job)
        assert await tick(shop, job) == signed[0], "the one that waited, not another of the same count"


@pytest.mark.parametrize("is_sent", [False, True])
async def test_folder_lost_around_the_sending_is_restored_from_the_copy(shop: Shop, is_sent: bool) -> None:
    """Receipts that came after the copy are lost; the anchor's are not, and it is sent again if it never left."""
    lease_id = shop.open_lease()
    for seq in range(3):
        serve(shop, lease_id, seq)

    def save() -> None:
        backups(shop).take()
        if not is_sent:
            raise BackupError("killed before the anchor leaves")

    async with anchoring(shop, save) as job:
        if is_sent:
            await tick(shop, job)
        else:
            with pytest.raises(BackupError, match="killed"):
                await tick(shop, job)
    with closing(shop.ledger()) as ledger:
        anchor = next(ledger.anchors())
    assert shop.anchored() == (anchor_word(anchor) if is_sent else bytes(32))
    serve(shop, lease_id, 3)
    old_key = shop.node().address
    bring_back(shop)
    assert shop.node().address != old_key
    async with anchoring(shop, lambda: None) as job:
        await job.check_not_contradicting()
        for _ in range(2):
            await tick(shop, job)
        assert shop.anchored() == anchor_word(anchor)
    serve(shop, shop.open_lease(), 0)
    async with anchoring(shop, lambda: None) as job:
        await tick(shop, job)
        further = await tick(shop, job)
    assert further is not None
    assert (further.count, shop.anchored()) == (4, anchor_word(further))
    with closing(shop.ledger()) as ledger:
        ledger.check()


async def test_killed_after_the_restore_it_goes_on(shop: Shop) -> None:
    """Restored, killed before its first tick, started again: the anchor of the lost worker is sent, signed anew."""
    serve(shop, shop.open_lease(), 0)

    def die() -> None:
        backups(shop).take()
        raise BackupError("killed")

    async with anchoring(shop, die) as job:
        with pytest.raises(BackupError, match="killed"):
            await tick(shop, job)
    bring_back(shop)
    async with anchoring(shop, die) as job:
        await job.check_not_contradicting()
        with pytest.raises(BackupError, match="killed"):
            await tick(shop, job)
    async with anchoring(shop, backups(shop).take) as job:
        await job.check_not_contradicting()
        await tick(shop, job)
        found = await tick(shop, job)
    assert found is not None
    with closing(shop.ledger()) as ledger:
        last = ledger.last_anchor(confirmed=True)
    assert last is not None
    assert last.signed.recover(shop.market.domain) == shop.node().address
    assert shop.anchored() == anchor_word(last.signed.message)
