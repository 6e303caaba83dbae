"""Backup and restore on a real chain: nothing that a restored worker signs meets what the lost one signed."""

import asyncio
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from consumer.store import Store
from protocol import keystore
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import Password, WrongPassword
from protocol.signing import Signer
from protocol.typed_data import Anchor, Receipt, digest
from provider.anchoring import anchor_word
from provider.archive import read_manifest, write_archive
from provider.backup import Backups, backup
from provider.config import load_config
from provider.enrolment import Enrolment
from provider.exceptions import AnchorError, BackupError, ConfigError
from provider.ledger import Ledger
from provider.restoring import restore
from tests.support.anvil import ROOT, wait_for
from tests.support.engine_slots import hold_engine_slots
from tests.support.live_market import PASSWORD, SCRYPT_N, LiveMarket, WorkerProcess, ask, live_market
from tests.support.shop import Shop, open_shop


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture
def shop(market: LiveMarket, tmp_path: Path) -> Shop:
    return open_shop(market, tmp_path / "provider")


def save(shop: Shop) -> Path:
    return backup(shop.config, shop.folder.with_name("backup.tar"), shop.node())


def lose(shop: Shop) -> None:
    shutil.rmtree(shop.folder)


def bring_back(shop: Shop, archive: Path, folder: Path | None = None) -> list[str]:
    """Restores into a folder; what it reported."""
    said: list[str] = []
    restore(archive, folder or shop.folder, shop.owner_key, PASSWORD, said.append, SCRYPT_N)
    return said


def is_open(shop: Shop, lease_id: bytes) -> bool:
    lease = shop.market.client.lease(lease_id)
    return shop.market.client.head().timestamp < lease.closes_at


@pytest.mark.slow
def test_lost_folder_is_restored_and_serves(market: LiveMarket, shop: Shop, tmp_path: Path) -> None:
    paid, unknown = shop.open_lease(), shop.open_lease()
    for seq in range(3):
        shop.admit(paid, seq, cumulative=1_000 * seq)
        shop.finish(paid, seq)
    shop.anchor()
    shop.admit(paid, 3)
    with closing(shop.ledger()):
        archive = save(shop)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [path for path in archive.parent.iterdir() if path.name.startswith(".backup")] == []
    old_node = market.client.node_key(shop.provider)
    shop.admit(unknown, 0)
    shop.finish(unknown, 0)
    late = shop.open_lease()
    lose(shop)

    said = bring_back(shop, archive)
    assert any("gave up 1 requests" in line for line in said)
    assert any("ended 3 older leases" in line for line in said)
    assert market.client.lease(paid).settled == 2_000
    assert not any(is_open(shop, lease_id) for lease_id in (paid, unknown, late))
    new_node = market.client.node_key(shop.provider)
    assert keystore.address(shop.config.provider.node_key) == new_node != old_node
    with pytest.raises(ConfigError, match="not empty"):
        bring_back(shop, archive)

    (shop.folder / "password").write_text(PASSWORD.reveal() + "\n")
    store = Store(tmp_path / "consumer.sqlite", market.domain)
    enrolment = Enrolment(
        shop.provider, shop.enrolment.offer_id, 1, shop.enrolment.operator, shop.folder / "provider.toml"
    )
    with hold_engine_slots(1), WorkerProcess(enrolment.config) as worker:
        record, session = market.open_lease(store, worker.wait_ready(), enrolment)
        end = ask(market, store, record, session)
        assert end.receipt.recover(market.domain) == new_node
        wait_for(lambda: market.client.lease(record.lease_id).settled == end.receipt.message.cost)
        wait_for(lambda: shop.anchored() == word(shop, 4))
        assert worker.stop() == 0
    store.close()
    with closing(shop.ledger()) as ledger:
        assert ledger.count == 4
        ledger.check()


def word(shop: Shop, count: int) -> bytes:
    with closing(shop.ledger()) as ledger:
        return anchor_word(Anchor(shop.provider, count, ledger.root(count))) if ledger.count >= count else b""


def test_open_request_gets_no_second_final(shop: Shop) -> None:
    """The control signs for what was open at the time of the copy, as a start after a crash does, and contradicts."""
    lease_id = shop.open_lease()
    shop.admit(lease_id, 0)
    archive = save(shop)
    lost = shop.finish(lease_id, 0, cost=7)
    weakened = shop.folder.with_name("weakened")
    shutil.copytree(shop.folder, weakened)
    with tarfile.open(archive) as packed, (weakened / "data" / "ledger.sqlite").open("wb") as file:
        member = packed.extractfile("data/ledger.sqlite")
        assert member is not None
        file.write(member.read())
    for rest in ("-wal", "-shm"):
        (weakened / "data" / f"ledger.sqlite{rest}").unlink(missing_ok=True)
    with closing(shop.ledger(weakened)) as ledger:
        assert [request.seq for request in ledger.unfinished()] == [0]
        message = Receipt(lease_id, 0, 0, True, 0, 1, 0, 0, b"\x05" * 32, bytes(32), 0, 0, 1, bytes(32))
    assert digest(shop.market.domain, message) != digest(shop.market.domain, lost.message)
    lose(shop)
    bring_back(shop, archive)
    with closing(shop.ledger()) as ledger:
        assert ledger.unfinished() == []
        assert ledger.final_receipt(lease_id, 0) is None


@pytest.mark.slow
def test_anchor_beyond_the_backup_is_never_served_with(market: LiveMarket, shop: Shop) -> None:
    lease_id = shop.open_lease()
    shop.admit(lease_id, 0, cumulative=500)
    shop.finish(lease_id, 0)
    archive = save(shop)
    shop.admit(lease_id, 1)
    shop.finish(lease_id, 1)
    shop.anchor()
    lose(shop)
    for _ in range(2):
        with pytest.raises(AnchorError, match="with 1 of them, does not have"):
            bring_back(shop, archive)
    assert market.client.lease(lease_id).settled == 500
    assert not is_open(shop, lease_id)
    (shop.folder / "password").write_text(PASSWORD.reveal() + "\n")
    for words in ("not ready to serve", "register again as a new provider"):
        with WorkerProcess(shop.folder / "provider.toml") as worker:
            assert worker.wait_end() == 1
            assert words in worker.output
            assert "Traceback" not in worker.output
        (shop.folder / "data" / "restoring.json").unlink(missing_ok=True)


def test_anchor_over_what_the_backup_has_is_taken_over(shop: Shop) -> None:
    """Signed after the copy was made, over receipts that are in it."""
    lease_id = shop.open_lease()
    for seq in range(3):
        shop.admit(lease_id, seq)
        shop.finish(lease_id, seq)
    archive = save(shop)
    shop.anchor()
    lose(shop)
    bring_back(shop, archive)
    with closing(shop.ledger()) as ledger:
        last = ledger.last_anchor()
        assert last is not None
        assert anchor_word(last.signed.message) == shop.anchored()
        assert last.signed.recover(shop.market.domain) == shop.market.client.node_key(shop.provider)


@pytest.mark.slow
def test_killed_restore_is_gone_on_with(market: LiveMarket, shop: Shop) -> None:
    """Killed at each transaction it records; the next run sends that one and dies at the one after."""
    leases = [shop.open_lease() for _ in range(2)]
    for lease_id in leases:
        shop.admit(lease_id, 0, cumulative=300)
        shop.finish(lease_id, 0)
    archive = save(shop)
    lose(shop)
    before = market.node.block_number()
    (shop.folder.with_name(f".{shop.folder.name}.unpacking")).mkdir()
    steps = []
    command = [sys.executable, "-m", "tests.support.dying_restore", *map(str, (archive, shop.folder, shop.owner_key))]
    while (ended := subprocess.run(command, cwd=ROOT, capture_output=True, check=False)).returncode == -9:
        steps.append(ended.stdout.decode().splitlines()[-1])
        assert (shop.folder / "data" / "restoring.json").exists()
    assert ended.returncode == 0, ended.stderr
    assert steps == ["settle", "rotate", "end", "end"]
    assert not (shop.folder / "data" / "restoring.json").exists()
    events = [event.name for event in market.client.events(before + 1, market.node.block_number())]
    assert [events.count(name) for name in ("VoucherSettled", "NodeKeyRotated", "LeaseClosed")] == [2, 1, 2]
    assert [market.client.lease(lease_id).settled for lease_id in leases] == [300, 300]


def test_settlement_that_fails_ends_no_lease(market: LiveMarket, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vouchers would lapse."""
    lease_id = shop.open_lease()
    shop.admit(lease_id, 0, cumulative=300)
    shop.finish(lease_id, 0)
    archive = save(shop)
    lose(shop)
    with monkeypatch.context() as patch:
        patch.setattr("provider.settling.gas_limit", lambda *_: 30_000)
        with pytest.raises(BackupError, match="not all vouchers could be settled"):
            bring_back(shop, archive)
    assert market.client.lease(lease_id).settled == 0
    assert is_open(shop, lease_id)
    assert any("settled 1 leases" in line for line in bring_back(shop, archive))
    assert market.client.lease(lease_id).settled == 300
    assert not is_open(shop, lease_id)


def test_folder_keeps_the_newest_backups_and_each_has_the_anchor(shop: Shop) -> None:
    """As the worker does it: the anchor is in the ledger, then copied, then sent."""
    lease_id = shop.open_lease()
    copies = Backups(shop.config, shop.folder.with_name("copies"), 2, shop.node())
    for seq in range(3):
        shop.admit(lease_id, seq)
        shop.finish(lease_id, seq)
        shop.anchor()
        copies.take()
    found = sorted(shop.folder.with_name("copies").iterdir())
    assert len(found) == 2
    lose(shop)
    bring_back(shop, found[-1])
    with closing(shop.ledger()) as ledger:
        assert ledger.count == 3


def test_backup_of_a_ledger_in_use_is_of_one_moment(shop: Shop) -> None:
    lease_id = shop.open_lease()

    async def write_and_copy() -> list[Path]:
        async def write() -> None:
            for seq in range(40):
                await asyncio.to_thread(shop.admit, lease_id, seq, seq)

        async def copy() -> list[Path]:
            targets = [shop.folder.with_name(f"{number}.tar") for number in range(4)]
            return [await asyncio.to_thread(backup, shop.config, target, node) for target in targets]

        node = shop.node()
        _, made = await asyncio.gather(write(), copy())
        return made

    for archive in asyncio.run(write_and_copy()):
        target = archive.with_suffix(".sqlite")
        with tarfile.open(archive) as packed:
            member = packed.extractfile("data/ledger.sqlite")
            assert member is not None
            target.write_bytes(member.read())
        with closing(Ledger(target, shop.market.domain, shop.provider)) as ledger:
            ledger.check()


def test_foreign_owner_and_wrong_password_change_nothing(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="no ledger yet"):
        save(shop)
    shop.ledger().close()
    archive = save(shop)
    stranger = tmp_path / "stranger.json"
    keystore.save(stranger, Signer(b"\x77" * 32), PASSWORD, scrypt_n=SCRYPT_N)
    with pytest.raises(WrongPassword):
        restore(archive, tmp_path / "new", shop.owner_key, Password("wrong"), print, SCRYPT_N)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="belongs to"):
        restore(archive, tmp_path / "new", stranger, PASSWORD, print, SCRYPT_N)


# --- hostile archives


Members = list[tuple[tarfile.TarInfo, bytes]]


def members(archive: Path) -> Members:
    with tarfile.open(archive) as packed:
        return [(info, (packed.extractfile(info) or io.BytesIO()).read()) for info in packed.getmembers()]


def pack(target: Path, content: Members) -> Path:
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as packed:
        for info, data in content:
            packed.addfile(info, io.BytesIO(data))
    return target


def plain(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def with_manifest(content: Members, change: Callable[[list[dict[str, object]]], None]) -> Members:
    manifest = json.loads(content[0][1])
    change(manifest["files"])
    return [plain("manifest.json", json.dumps(manifest).encode()), *content[1:]]


def listed(name: str, data: bytes) -> dict[str, object]:
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def link(kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo("data/link.json")
    info.type, info.linkname = kind, "/etc/passwd"
    return info, b""


ATTACKS: dict[str, Callable[[Members], Members]] = {
    "parent": lambda c: [*with_manifest(c, lambda f: f.append(listed("../evil", b"x"))), plain("../evil", b"x")],
    "absolute": lambda c: [*with_manifest(c, lambda f: f.append(listed("/tmp/evil", b"x"))), plain("/tmp/evil", b"x")],
    "inner parent": lambda c: [
        *with_manifest(c, lambda f: f.append(listed("data/..", b"x"))),
        plain("data/..", b"x"),
    ],
    "unlisted": lambda c: [*c, plain("data/more.json", b"{}")],
    "twice": lambda c: [*c, c[-1]],
    "listed twice": lambda c: with_manifest(c, lambda f: f.append(f[0])),
    "missing": lambda c: c[:-1],
    "symbolic link": lambda c: [*with_manifest(c, lambda f: f.append(listed("data/link.json", b""))), link(b"2")],
    "hard link": lambda c: [*with_manifest(c, lambda f: f.append(listed("data/link.json", b""))), link(b"1")],
    "device": lambda c: [*with_manifest(c, lambda f: f.append(listed("data/link.json", b""))), link(b"3")],
    "other content": lambda c: [*c[:-1], plain(c[-1][0].name, b"X" + c[-1][1][1:])],
    "other content and manifest": lambda c: [
        *with_manifest(c[:-1], lambda f: f[-1].update(listed(c[-1][0].name, b"X"))),
        plain(c[-1][0].name, b"X"),
    ],
    "endless size": lambda c: with_manifest(c, lambda f: f[0].update(size=1 << 61)),
    "no manifest": lambda c: c[1:],
    "manifest last": lambda c: [*c[1:], c[0]],
    "huge manifest": lambda c: [plain("manifest.json", b"[" * (5 << 20)), *c[1:]],
    "deep manifest": lambda c: [plain("manifest.json", b"[" * 100_000), *c[1:]],
    "empty": lambda _: [],
}


@pytest.fixture(scope="module")
def good(market: LiveMarket, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shop]:
    made = open_shop(market, tmp_path_factory.mktemp("hostile") / "provider")
    made.ledger().close()
    return save(made), made


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_archive_is_refused(good: tuple[Path, Shop], tmp_path: Path, attack: str) -> None:
    archive, shop = good
    bad = pack(tmp_path / "bad.tar", ATTACKS[attack](members(archive)))
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(BackupError):
        restore(bad, inside / "new", shop.owner_key, PASSWORD, print, SCRYPT_N)
    assert list(inside.iterdir()) == []
    assert not Path("/tmp/evil").exists()


def test_positive_control_plain_unpacking_escapes(good: tuple[Path, Shop], tmp_path: Path) -> None:
    bad = pack(tmp_path / "bad.tar", ATTACKS["parent"](members(good[0])))
    (tmp_path / "inside").mkdir()
    with tarfile.open(bad) as packed:
        packed.extractall(tmp_path / "inside")
    assert (tmp_path / "evil").exists()


def test_archive_sealed_by_another_key_is_refused(good: tuple[Path, Shop], tmp_path: Path) -> None:
    """Whoever has the encrypted keystore but not its password can not make an archive that is taken."""
    archive, shop = good
    files = {}
    for info, data in members(archive)[1:]:
        path = tmp_path / "files" / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files[info.name] = path
    manifest = read_manifest(archive)
    facts = {name: manifest[name] for name in ("provider", "made_at", "node_key")}
    forged = tmp_path / "forged.tar"
    write_archive(forged, files, facts, Signer(b"\x66" * 32))
    with pytest.raises(BackupError, match="changed after it was made"):
        restore(forged, tmp_path / "new", shop.owner_key, PASSWORD, print, SCRYPT_N)
    again = tmp_path / "again.tar"
    write_archive(again, files, facts, shop.node())
    assert read_manifest(again)["seal"] == manifest["seal"]


@pytest.mark.parametrize("length", [0, 100, 512, 5_000, -1_024 * 12])
def test_cut_off_archive_is_refused(good: tuple[Path, Shop], tmp_path: Path, length: int) -> None:
    archive, shop = good
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[:length])
    with pytest.raises(BackupError):
        restore(cut, tmp_path / "new", shop.owner_key, PASSWORD, print, SCRYPT_N)
    assert not (tmp_path / "new").exists()


def test_configuration_survives_with_its_own_paths(good: tuple[Path, Shop], tmp_path: Path) -> None:
    archive, shop = good
    found = {info.name: data for info, data in members(archive)}
    (tmp_path / "provider.toml").write_bytes(found["provider.toml"])
    there, here = load_config(tmp_path / "provider.toml"), shop.config
    assert there.provider.data == tmp_path / "data"
    assert there.chain.deployment == tmp_path / "deployment.json"
    assert there.serving == here.serving
    assert there.settling == here.settling
    assert there.engine == here.engine


def test_second_sender_is_not_the_old_file(shop: Shop) -> None:
    """A copy of the sender's records does not know its latest attempts: it is set aside."""
    lease_id = shop.open_lease()
    shop.admit(lease_id, 0, cumulative=300)
    operator = keystore.load(shop.config.provider.operator_key, PASSWORD)
    path = shop.config.provider.data / "sender.sqlite"
    with TransactionSender(shop.market.client, operator, path, SenderPolicy(poll_s=0.05)) as sender:
        archive = save(shop)
        sender.execute("later", operator.address, timeout=30)
    lose(shop)
    bring_back(shop, archive)
    assert (shop.config.provider.data / "sender.before-restore.sqlite").exists()
    assert shop.market.client.lease(lease_id).settled == 300
