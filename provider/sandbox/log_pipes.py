"""The pipe into which gVisor writes its log for the process that made the container, and for nobody else.

A runtime's arguments are the same for all containers, so that a few lines of shell stand before gVisor: they name the
pipe of the very container that is made, if there is one. Without one gVisor writes no log.
"""

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "log-"
_SIZE = 1 << 20  # holds all that gVisor says at its start, so that it never waits for a reader there


def script(runsc: str, folder: Path) -> str:
    """The program to give to the daemon in place of `runsc`, for containers whose pipe is in `folder`.

    It opens the pipe for reading too while the container is made: gVisor would wait for ever for a maker that has gone.
    """
    return f"""#!/bin/sh
for container; do :; done
pipe={shlex.quote(f"{folder}/{_PREFIX}")}$container
case " $* " in
*" create "*)
    if [ -p "$pipe" ]; then
        exec 9<>"$pipe"
        set -- --debug "--debug-log=$pipe" "$@"
    fi
    ;;
esac
exec {shlex.quote(runsc)} "$@"
"""


@contextmanager
def opened(folder: Path, container_id: str) -> Iterator[int]:
    """Gives the end to read from; the container is to be started in the block.

    Who reads closes it. It is at its end when the container is, or at once if nothing was started. Raises OSError.
    """
    path = folder / f"{_PREFIX}{container_id}"
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
