"""At most two inference engines at once on a machine, whoever runs the tests: threads beyond the cores stall all."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

SLOTS = 2
_POLL_S = 0.05

_is_held = False  # by this process


@contextmanager
def hold_engine_slots(count: int = 1) -> Iterator[None]:
    """Wait until `count` slots are free, and hold them; free of charge for a process that holds some already.

    The tests of one process take turns, so its further engines stand idle beside the one in use; waiting for more while
    holding some could lock two processes up.
    """
    global _is_held
    if not 1 <= count <= SLOTS:
        raise ValueError(f"a test may run 1 to {SLOTS} engines, not {count}")
    if _is_held:
        yield
        return
    folder = Path(tempfile.gettempdir()) / f"clawmarket-engines-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with ExitStack() as held:
        with (folder / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            free = [held.enter_context((folder / str(number)).open("w")) for number in range(SLOTS)]
            while count:
                taken = next((slot for slot in free if _try_lock(slot)), None)
                if taken is None:
                    time.sleep(_POLL_S)
                    continue
                free.remove(taken)
                count -= 1
        _is_held = True
        held.callback(_release)
        yield


def _release() -> None:
    global _is_held
    _is_held = False


def _try_lock(slot: IO[str]) -> bool:
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
