"""Backups of a worker's folder, made while it runs: ledger, sender's records, offers, configuration, keystores.

A backup is as good as the ledger in it: when the chain has an anchor over receipts that the copy lacks, nothing can be
served with it. So the worker can be told to make one before each anchor leaves (`[backup]` in the configuration).
Model files are not in it, nor a self-signed TLS key: both are made anew.
"""

import json
import shutil
import sqlite3
import tempfile
import time
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

from protocol.signing import Signer
from provider.archive import write_archive
from provider.config import Config
from provider.exceptions import BackupError

LEDGER_FILE = "ledger.sqlite"
SENDER_FILE = "sender.sqlite"
OFFERS_FOLDER = "offers"
CONFIG_FILE = "provider.toml"
DEPLOYMENT_FILE = "deployment.json"
NODE_FILE = "node.json"
OPERATOR_FILE = "operator.json"
DATA_FOLDER = "data"


def backup(config: Config, target: Path, node: Signer) -> Path:
    """Writes a consistent archive of everything but models to `target` and returns it; the worker may run meanwhile.

    `node` is the node key in force; it seals the archive. Twice the ledger's size is needed in the target's folder for
    the time being. Raises BackupError, and then `target` is what it was before.
    """
    data = config.provider.data
    if not (data / LEDGER_FILE).exists():
        raise BackupError(f"{data} holds no ledger yet: there is nothing to back up before the first start")
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as made:
            staging = Path(made)
            files = {
                DEPLOYMENT_FILE: config.chain.deployment,
                NODE_FILE: config.provider.node_key,
                OPERATOR_FILE: config.provider.operator_key,
            }
            files |= {f"{DATA_FOLDER}/{path.name}": path for path in data.glob("*.json")}
            files |= {f"{DATA_FOLDER}/{OFFERS_FOLDER}/{p.name}": p for p in (data / OFFERS_FOLDER).glob("*.json")}
            copied = {name: _copy(path, staging / name) for name, path in files.items()}
            (staging / CONFIG_FILE).write_text(_portable(config.file), encoding="utf-8")
            copied[CONFIG_FILE] = staging / CONFIG_FILE
            for name in (LEDGER_FILE, SENDER_FILE):
                if (data / name).exists():
                    copied[f"{DATA_FOLDER}/{name}"] = _copy_database(data / name, staging / name)
            facts = {"provider": config.provider.id, "made_at": int(time.time()), "node_key": node.address}
            write_archive(target, copied, facts, node)
    except OSError as error:
        raise BackupError(f"the backup {target} cannot be made: {error}") from error
    except sqlite3.Error as error:
        raise BackupError(f"the backup {target} cannot be made, a database cannot be copied: {error}") from error
    return target


class Backups:
    """A folder with the newest `keep` backups of one provider."""

    def __init__(self, config: Config, folder: Path, keep: int, node: Signer) -> None:
        self._config = config
        self._folder = folder
        self._keep = keep
        self._node = node

    def take(self) -> Path:
        """Makes one and removes those that are too many. Raises BackupError."""
        prefix = f"provider-{self._config.provider.id}-"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise BackupError(f"the folder {self._folder} of backups cannot be made: {error.strerror}") from error
        made = backup(self._config, self._folder / f"{prefix}{time.time_ns():020}.tar", self._node)
        for old in sorted(self._folder.glob(f"{prefix}{'[0-9]' * 20}.tar"))[: -self._keep]:
            old.unlink(missing_ok=True)
        return made


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def _copy_database(source: Path, target: Path) -> Path:
    """As of one commit, whatever is written meanwhile."""
    with closing(sqlite3.connect(source)) as db, closing(sqlite3.connect(target)) as copy:
        db.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    return target


def _portable(path: Path) -> str:
    """The configuration with the names that the archive's files have."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    content["chain"]["deployment"] = DEPLOYMENT_FILE
    content["provider"] |= {"data": DATA_FOLDER, "node_key": NODE_FILE, "operator_key": OPERATOR_FILE}
    text = _toml(content)
    if tomllib.loads(text) != content:
        raise BackupError(f"{path} holds values that cannot be copied: write it with plain strings, numbers and lists")
    return text


def _toml(content: dict[str, Any], path: tuple[str, ...] = ()) -> str:
    """Plain values first, then the tables."""
    lines = [f"{_key(name)} = {_value(value)}" for name, value in content.items() if not isinstance(value, dict)]
    head = f"[{'.'.join(map(_key, path))}]\n" if path else ""
    tables = [_toml(value, (*path, name)) for name, value in content.items() if isinstance(value, dict)]
    return "\n".join([head + "".join(f"{line}\n" for line in lines), *tables])


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(found)}" for name, found in value.items()) + "}"
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
