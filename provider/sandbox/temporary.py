"""A sandbox that lasts as long as the process that wants it: for the demo and for tests."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from provider.sandbox import installing, processes
from provider.sandbox.daemon import Daemon
from provider.sandbox.paths import SandboxPaths

CACHE = Path.home() / ".cache/clawmarket/sandbox"
"""What can be made again, kept between runs."""
_PREFIX, _OWNER = "claw-sbx-", "made-by"


@contextmanager
def temporary_paths(report: Callable[[str], None]) -> Iterator[SandboxPaths]:
    """Folders for a daemon, short enough for its sockets; what runs in them at the end is stopped.

    What this machine lacks is installed first. Raises SetupError.
    """
    installing.install(SandboxPaths(Path(), Path(), CACHE), report)
    _stop_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / _OWNER).write_text(processes.identity())
    folder.chmod(0o711)
    (folder / "cache").symlink_to(CACHE)  # for commands that are given the folder only
    try:
        yield SandboxPaths.under(folder, CACHE)
    finally:
        _remove(folder)


def _stop_abandoned() -> None:
    """Daemons of processes that were killed."""
    for file in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        if not processes.is_running(file.read_text()):
            _remove(file.parent)


def _remove(folder: Path) -> None:
    Daemon(SandboxPaths.under(folder, CACHE)).stop()
    shutil.rmtree(folder, ignore_errors=True)
