"""A worker's folder from a backup, and what must be done before anything is served from it.

The lost worker may have signed after the copy was made. So the restored one settles the vouchers it holds, gives up
requests that were open, rotates the node key, and ends all leases that were opened before: then nothing that it signs
can meet a statement of the lost one about the same request. A marker in the data folder keeps it from serving until
all of that is done; `restore` with the same arguments goes on wherever it was interrupted.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ContractReverted, RpcRejected
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.headers import Signed
from protocol.keystore import SCRYPT_N, Password
from protocol.signing import Signer
from protocol.typed_data import Anchor, Domain, Voucher
from provider import key_rotation
from provider.anchoring import reconcile
from provider.archive import check_seal, read_manifest, sync_folder, unpack
from provider.backup import CONFIG_FILE, DATA_FOLDER, LEDGER_FILE, NODE_FILE, SENDER_FILE
from provider.config import Config, load_config
from provider.exceptions import BackupError, ConfigError
from provider.files import write_whole
from provider.ledger import Ledger
from provider.settling import MAX_BATCH, submit

MARKER_FILE = "restoring.json"
OLD_SENDER_FILE = "sender.before-restore.sqlite"
FINAL_S = 1_800.0
"""A transaction may take so long to be final; after that `restore` is run again."""
BLOCKS = 10_000
MAX_BLOCKS = 1_000_000


def check_restored(data: Path) -> None:
    """Raises ConfigError while a restore into this data folder is not done."""
    if (data / MARKER_FILE).exists():
        raise ConfigError(
            f"{data.parent} is restored from a backup and not ready to serve: run `clawmarket provider restore` again, "
            "with the same backup and folder"
        )


def restore(
    archive: Path,
    folder: Path,
    owner_key: Path,
    password: Password,
    report: Callable[[str], None],
    scrypt_n: int = SCRYPT_N,
) -> Path:
    """Makes `folder` (new or empty) a worker's folder from a backup, ready to serve; returns its configuration file.

    `password` opens the backup's keystores and the owner's. Run it again after an interruption. Raises BackupError,
    ConfigError, KeystoreError, ChainError; AnchorError when the chain has anchored receipts that the backup lacks, and
    then the folder will never serve.
    """
    owner = keystore.load(owner_key, password)
    manifest = read_manifest(archive)
    marker = folder / DATA_FOLDER / MARKER_FILE
    if not marker.exists():
        _unpack(archive, folder, password)
        report(f"unpacked {len(manifest['files'])} files")
    elif _read(marker)["seal"] != manifest["seal"]:
        raise ConfigError(f"{folder} is being restored from another backup: finish that, or choose a new folder")
    config = load_config(folder / CONFIG_FILE)
    with ChainClient(config.chain.rpc, deployments.load_file(config.chain.deployment)) as client:
        client.check_deployment()
        registered = client.get(client.reads.owner_of(config.provider.id))
        if registered != owner.address:
            raise ConfigError(
                f"provider {config.provider.id} belongs to {registered}, {owner_key} holds {owner.address}"
            )
        _Restore(config, client, owner, owner_key, password, report, scrypt_n).run()
    marker.unlink()
    sync_folder(marker.parent)
    report("ready: start the worker")
    return folder / CONFIG_FILE


class _Restore:
    """The duties between unpacking and serving. Each looks first what is done already."""

    def __init__(
        self,
        config: Config,
        client: ChainClient,
        owner: Signer,
        owner_key: Path,
        password: Password,
        report: Callable[[str], None],
        scrypt_n: int,
    ) -> None:
        self._config = config
        self._client = client
        self._owner = owner
        self._owner_key = owner_key
        self._password = password
        self._report = report
        self._scrypt_n = scrypt_n
        self._data = config.provider.data
        self._domain = Domain(client.deployment.chain_id, client.deployment.address("LeaseEscrow"))

    def run(self) -> None:
        ledger = Ledger(self._data / LEDGER_FILE, self._domain, self._config.provider.id)
        try:
            ledger.check()
            self._settle(ledger)
            abandoned = ledger.abandon_open()
            if abandoned:
                self._report(f"gave up {abandoned} requests that were open when the backup was made")
            self._rotate()
            self._end_leases(ledger)
            self._reconcile(ledger)
        finally:
            ledger.close()

    def _settle(self, ledger: Ledger) -> None:
        due = self._unsettled(ledger)
        operator = keystore.load(self._config.provider.operator_key, self._password)
        with self._sender(operator, SENDER_FILE) as sender:
            for token, vouchers in due.items():
                for start in range(0, len(vouchers), MAX_BATCH):
                    batch = vouchers[start : start + MAX_BATCH]
                    name = submit(self._client, sender, self._config.provider.id, token, batch)
                    attempt = sender.latest(name)
                    if attempt is not None:
                        sender.wait(attempt.key, timeout=FINAL_S)
        if due:
            if self._unsettled(ledger):
                raise BackupError("not all vouchers could be settled: run `restore` again, before the leases are ended")
            self._report(f"settled {sum(map(len, due.values()))} leases")

    def _unsettled(self, ledger: Ledger) -> dict[str, list[Signed[Voucher]]]:
        """By token, the vouchers that the chain would still pay for."""
        due: dict[str, list[Signed[Voucher]]] = defaultdict(list)
        head = self._client.head()
        for lease_id in ledger.unsettled():
            try:
                lease = self._client.get(self._client.reads.lease(lease_id), head.number)
            except ContractReverted:
                continue
            voucher = ledger.highest_voucher_by(lease.signer, lease_id)
            if voucher is None or head.timestamp >= lease.closes_at:
                continue
            if min(voucher.message.cumulative, lease.deposit) > lease.settled:
                due[lease.token].append(voucher)
        return due

    def _rotate(self) -> None:
        marker = _read(self._data / MARKER_FILE)
        node_file = self._config.provider.node_key
        if not node_file.exists() or keystore.address(node_file) == marker["node_key"]:
            address = key_rotation.rotate(self._config, self._owner_key, self._password, self._scrypt_n)
            self._report(f"the node key is now {address}")
        if "until" not in marker:
            _write(self._data / MARKER_FILE, {**marker, "until": self._client.head().number})

    def _end_leases(self, ledger: Ledger) -> None:
        """Every lease that was opened up to the rotation."""
        until = int(_read(self._data / MARKER_FILE)["until"])
        leases = dict.fromkeys([*self._opened(until), *ledger.unreleased()])
        escrow = self._client.deployment.address("LeaseEscrow")
        with self._sender(self._owner, "owner.sqlite") as sender:
            sent = []
            for lease_id in leases:
                if not self._is_open(lease_id):
                    continue
                key = f"end:{lease_id.hex()}"
                try:
                    data = self._client.encode("LeaseEscrow", "close", lease_id)
                    sender.retry(key, escrow, data, is_over=lambda attempt: attempt.has_ended)
                except ContractReverted:
                    if self._is_open(lease_id):
                        raise
                    continue
                sent.append((lease_id, key))
            for lease_id, key in sent:
                attempt = sender.latest(key)
                if attempt is not None:
                    sender.wait(attempt.key, timeout=FINAL_S)
                if self._is_open(lease_id):
                    raise BackupError(f"lease 0x{lease_id.hex()} could not be ended: run `restore` again")
        if sent:
            self._report(f"ended {len(sent)} older leases")

    def _is_open(self, lease_id: bytes) -> bool:
        head = self._client.head()
        lease = self._client.get(self._client.reads.lease(lease_id), head.number)
        return not lease.is_released and head.timestamp < lease.closes_at

    def _opened(self, until: int) -> Iterator[bytes]:
        """Leases with this provider by their opening events, in as few questions as the node allows."""
        opened = self._client.decoder.topic_of("LeaseEscrow", "LeaseOpened")
        provider = self._config.provider.id.to_bytes(32, "big")
        escrow = self._client.deployment.address("LeaseEscrow")
        first, size = self._client.deployment.block, BLOCKS
        while first <= until:
            last = min(first + size - 1, until)
            try:
                logs = self._client.logs(first, last, addresses=[escrow], topics=[[opened], None, None, [provider]])
            except RpcRejected:
                if size == 1:
                    raise
                size = max(1, size // 4)
                continue
            for log in logs:
                yield log.topics[1]
            first, size = last + 1, min(2 * size, MAX_BLOCKS)

    def _reconcile(self, ledger: Ledger) -> None:
        node = keystore.load(self._config.provider.node_key, self._password)

        def sign(anchor: Anchor) -> Signed[Anchor]:
            return Signed(anchor, node.sign(self._domain, anchor))

        head = self._client.head()
        latest = self._client.get(self._client.reads.latest_anchor(self._config.provider.id), head.number)
        reconcile(ledger, self._config.provider.id, latest, sign, head.timestamp)

    def _sender(self, signer: Signer, name: str) -> TransactionSender:
        return TransactionSender(self._client, signer, self._data / name, SenderPolicy(poll_s=0.2))


def _unpack(archive: Path, folder: Path, password: Password) -> None:
    """The whole folder with its marker, or nothing."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: a backup is restored into a new folder")
    partial = folder.with_name(f".{folder.name}.unpacking")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        manifest = unpack(archive, partial)
        node = keystore.load(partial / NODE_FILE, password)
        check_seal(archive, manifest, node)
        data = partial / DATA_FOLDER
        if not (data / LEDGER_FILE).exists():
            raise BackupError(f"backup {archive} holds no ledger")
        if (data / SENDER_FILE).exists():
            (data / SENDER_FILE).rename(data / OLD_SENDER_FILE)
        _write(data / MARKER_FILE, {"seal": manifest["seal"], "node_key": node.address})
        for path in (data, partial):
            sync_folder(path)
        partial.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise BackupError(f"backup {archive} cannot be unpacked into {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(marker: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{marker} cannot be read: restore the backup into a new folder") from error
    return content


def _write(marker: Path, content: dict[str, Any]) -> None:
    write_whole(marker, json.dumps(content).encode())
