"""At most two inference engines at once on a machine, whoever runs the tests: threads beyond the cores stall all."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

SLOTS = 2


@contextmanager
def hold_engine_slots(count: int = 1) -> Iterator[None]:
    """Wait until `count` slots are free, and hold them. Take all you need in one call: nested calls can lock up."""
    if not 1 <= count <= SLOTS:
        raise ValueError(f"a test may run 1 to {SLOTS} engines, not {count}")
    folder = Path(tempfile.gettempdir()) / f"clawmarket-engines-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with ExitStack() as held:
        with (folder / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            busy = []
            for number in range(SLOTS):
                slot = (folder / str(number)).open("w")
                if count and _try_lock(slot):
                    held.enter_context(slot)
                    count -= 1
                else:
                    busy.append(slot)
            for slot in busy:
                if count:
                    fcntl.flock(slot, fcntl.LOCK_EX)
                    held.enter_context(slot)
                    count -= 1
                else:
                    slot.close()
        yield


def _try_lock(slot: IO[str]) -> bool:
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
