"""Model files by their SHA-256, which is remembered as long as a file stays as it is."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provider.exceptions import ConfigError
from provider.files import write_whole

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the file's size."""
_BLOCK = 4 * 1024 * 1024
_SETTLED_NS = 2 * 10**9
"""A file changed more recently than this may change again without its times showing it."""


@dataclass(frozen=True)
class ModelFile:
    """A file, and what it has to be."""

    path: Path
    sha256: str


class ChangedFile(ConfigError):  # noqa: N818 - it is what happened
    """A model file is not, or no longer, the one it has to be."""


def sha256_of(path: Path, progress: Progress | None = None) -> str:
    """The file's SHA-256 in hex. Raises ConfigError if it cannot be read."""
    state = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            size, done = os.fstat(file.fileno()).st_size, 0
            while block := file.read(_BLOCK):
                state.update(block)
                done += len(block)
                if progress:
                    progress(done, size)
    except OSError as error:
        raise ConfigError(f"model file {path} cannot be read: {error.strerror}") from error
    return state.hexdigest()


class FileDigests:
    """Digests of files, kept in a JSON file; a file is read again when its identity, size or times change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known = self._load()

    def get(self, path: Path, progress: Progress | None = None) -> str:
        """The file's SHA-256. Raises ConfigError if it cannot be read, or changes meanwhile."""
        before = _state(path)
        with self._lock:
            known = self._known.get(str(path))
        if isinstance(known, list) and known[:-1] == before:
            return str(known[-1])
        digest = sha256_of(path, progress)
        if _state(path) != before:
            raise ChangedFile(f"model file {path} changed while it was read: try again when it is complete")
        if time.time_ns() - max(int(before[3]), int(before[4])) > _SETTLED_NS:
            with self._lock:
                self._known[str(path)] = [*before, digest]
                write_whole(self._path, json.dumps(self._known, indent=1).encode())
        return digest

    def check(self, file: ModelFile) -> None:
        """Raises ChangedFile unless the file is what it has to be, ConfigError if it cannot be read."""
        found = self.get(file.path)
        if found != file.sha256:
            raise ChangedFile(
                f"{file.path} is another file than promised: its SHA-256 is {found}, not {file.sha256}; "
                "put the promised file back, or publish an offer of this one"
            )

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _state(path: Path) -> list[int | str]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"model file {path} cannot be read: {error.strerror}") from error
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
