"""The file format of a backup: a plain tar of named files after a sealed manifest.

    manifest.json   {"schema": "clawmarket/backup/1", "files": [{"name", "size", "sha256"}, …], …, "seal": hex}
    …               exactly the files of the manifest, each once

The seal is an HMAC-SHA256 over the manifest without it, by a key derived from the node key that the archive holds
encrypted. So only who can open that keystore can have made the archive: what it names is not a stranger's.
Nothing is compressed, so what unpacks is never larger than the archive.
"""

import hashlib
import hmac
import io
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from protocol.signing import Signer
from provider.exceptions import BackupError

SCHEMA = "clawmarket/backup/1"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
_NAME = re.compile(r"(data/(offers/)?)?[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CHUNK = 1 << 20
_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)


def write_archive(target: Path, files: Mapping[str, Path], facts: Mapping[str, Any], node: Signer) -> None:
    """Packs `files` (by their names in the archive) and `facts` (members of the manifest).

    Whole or not at all, on disk on return, readable by its owner only. Raises BackupError.
    """
    for name in files:
        if not _NAME.fullmatch(name) or ".." in name:
            raise BackupError(f"a file of the name {name} has no place in a backup: rename it")
    rows = [
        {"name": name, "size": path.stat().st_size, "sha256": _sha256(path)} for name, path in sorted(files.items())
    ]
    manifest: dict[str, Any] = {"schema": SCHEMA, **facts, "files": rows}
    content = json.dumps({**manifest, "seal": _seal(manifest, node)}, indent=1).encode()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
                _add(archive, MANIFEST, len(content), io.BytesIO(content))
                for row in rows:
                    with files[str(row["name"])].open("rb") as source:
                        _add(archive, str(row["name"]), int(str(row["size"])), source)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise BackupError(f"{target} cannot be written ({error.strerror}): check the folder and the disk") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an archive, checked in form, its seal not yet. Raises BackupError."""
    with _open(path) as archive:
        return _manifest(path, archive)


def check_seal(path: Path, manifest: Mapping[str, Any], node: Signer) -> None:
    """Raises BackupError unless the owner of this node key made the manifest."""
    bare = {name: value for name, value in manifest.items() if name != "seal"}
    if not hmac.compare_digest(_seal(bare, node), str(manifest["seal"])):
        raise BackupError(f"backup {path} was changed after it was made, or made by someone else: do not use it")


def unpack(path: Path, folder: Path) -> dict[str, Any]:
    """Writes the archive's files into an empty folder; returns the manifest.

    Every file has the size and the digest that the manifest says. Raises BackupError, and then the folder holds rest
    that nothing may use.
    """
    with _open(path) as archive:
        manifest = _manifest(path, archive)
        left = {row["name"]: row for row in manifest["files"]}
        needed = sum(row["size"] for row in left.values())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise BackupError(f"{folder} has {free >> 20} MiB free and the backup needs {needed >> 20} MiB")
        while (info := _next(path, archive)) is not None:
            row = left.pop(info.name, None)
            if row is None or info.type not in _TYPES or info.sparse is not None or info.size != row["size"]:
                raise _damaged(path, "it holds what its manifest does not list")
            source = archive.extractfile(info)
            if source is None or _copy(source, folder / row["name"]) != row["sha256"]:
                raise _damaged(path, f"{row['name']} is not what its manifest says")
        if left:
            raise _damaged(path, f"{min(left)} is missing")
    return manifest


def sync_folder(folder: Path) -> None:
    """Has the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, mode="r:")
    except OSError as error:
        raise BackupError(f"backup {path} cannot be read: {error.strerror}") from error
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:
        raise _damaged(path, "it is no tar file") from error


def _next(path: Path, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, LookupError) as error:
        raise _damaged(path, "it is no tar file") from error


def _manifest(path: Path, archive: tarfile.TarFile) -> dict[str, Any]:
    info = _next(path, archive)
    if info is None or info.name != MANIFEST or info.type not in _TYPES or info.size > MAX_MANIFEST_BYTES:
        raise _damaged(path, "it does not begin with a manifest")
    source = archive.extractfile(info)
    try:
        manifest = json.loads(source.read() if source else b"")
    except (ValueError, RecursionError, OSError, tarfile.TarError) as error:
        raise _damaged(path, "its manifest is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise _damaged(path, f"its manifest is not of the form {SCHEMA}")
    rows = manifest.get("files")
    if (
        not isinstance(rows, list)
        or len(rows) > MAX_FILES
        or not all(_is_row(row) for row in rows)
        or len({row["name"] for row in rows}) != len(rows)
        or not isinstance(manifest.get("seal"), str)
        or not _HEX.fullmatch(manifest["seal"])
    ):
        raise _damaged(path, "its manifest lists no files as it should")
    return manifest


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() == {"name", "size", "sha256"}
        and isinstance(row["name"], str)
        and _NAME.fullmatch(row["name"]) is not None
        and ".." not in row["name"]
        and row["name"] != MANIFEST
        and type(row["size"]) is int
        and 0 <= row["size"] < 1 << 62
        and isinstance(row["sha256"], str)
        and _HEX.fullmatch(row["sha256"]) is not None
    )


def _add(archive: tarfile.TarFile, name: str, size: int, source: BinaryIO) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    archive.addfile(info, source)


def _copy(source: Any, target: Path) -> str:
    """The digest of what was written."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    hashed = hashlib.sha256()
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            while chunk := source.read(_CHUNK):
                hashed.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(descriptor)
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{target} cannot be unpacked: {error}") from error
    return hashed.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(manifest: Mapping[str, Any], node: Signer) -> str:
    key = hashlib.sha256(b"clawmarket backup seal" + node.private_key).digest()
    return hmac.new(key, json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode(), "sha256").hexdigest()


def _damaged(path: Path, reason: str) -> BackupError:
    return BackupError(f"{path} is no usable backup: {reason}")
