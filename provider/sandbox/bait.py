"""A folder of the host, mounted read-only into a probe, that everybody on the host might write to.

It shows whether the mount itself protects it: gVisor with direct access to files (directfs) says EROFS to a program
that opens a file for truncation, and truncates it.
"""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from provider.sandbox.policy import Mount

TARGET = "/run/bait"
FILES = ("append", "chmod", "link", "read-truncate", "rename", "unlink", "write", "write-truncate")
_TEXT = "as it was"


class Bait:
    """The folder, for the time of a block."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._folder = Path()

    def __enter__(self) -> Self:
        """Makes it."""
        self._folder = Path(tempfile.mkdtemp(dir=self._parent, prefix="bait-"))
        self._folder.chmod(0o777)
        for name in FILES:
            (self._folder / name).write_text(_TEXT)
            (self._folder / name).chmod(0o666)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def mount(self) -> Mount:
        """How a probe sees it."""
        return Mount(self._folder, TARGET)

    def changes(self) -> list[str]:
        """What is not as it was."""
        found = {path.name for path in self._folder.iterdir()} ^ set(FILES)
        for path in self._folder.iterdir():
            if path.name in FILES and (path.read_text() != _TEXT or path.stat().st_mode & 0o777 != 0o666):
                found.add(path.name)
        return sorted(found)
