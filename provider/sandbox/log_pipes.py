"""The pipe into which gVisor writes its log for the process that made the container, and for nobody else.

Without one gVisor writes no log.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SIZE = 1 << 20  # holds all that gVisor says at its start, so that it never waits for a reader there


def pipe_of(folder: Path, container_id: str) -> Path:
    """Where it is while the container is made."""
    return folder / f"log-{container_id}"


@contextmanager
def opened(folder: Path, container_id: str) -> Iterator[int]:
    """Gives the end to read from; the container is to be started in the block.

    Who reads closes it. It is at its end when the container is, or at once if nothing was started. Raises OSError.
    """
    path = pipe_of(folder, container_id)
    os.mkfifo(path, 0o600)
    try:
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reader, True)
        with path.open("wb", buffering=0) as writer:
            with contextlib.suppress(PermissionError):  # users may have only so much in pipes
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _SIZE)
            yield reader
    finally:
        path.unlink()
