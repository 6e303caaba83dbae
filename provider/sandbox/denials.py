"""System calls that the filter denied in gVisor's containers of this process, as gVisor's log tells them.

Nothing of it blocks a guest that makes no such calls. One that floods the log is slowed by the pipe, and costs this
process a bounded share of its time; its log is counted and not kept.
"""

import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from provider.sandbox import log_pipes
from provider.sandbox.call_names import UNKNOWN, name_of

_DENIED = re.compile(rb"^D\d{4} [^\n\]]{1,80}\] \[[ \d:]{1,40}\] Syscall (\d{1,20}): denied by seccomp$", re.MULTILINE)
_READ = 1 << 18
_PAUSE_S = 0.05  # between reads: at most 5 MB/s of a log
_LONGEST_LINE = 1 << 12
_MOST_NAMES = 64
_KEPT = 256  # of containers that have ended
_log = logging.getLogger(__name__)


@dataclass
class Heard:
    """What one container was denied until now, by name of the call; `has_ended` when nothing more can come."""

    container_id: str
    name: str
    role: str
    calls: Counter[str] = field(default_factory=Counter)
    has_ended: bool = False


_lock = threading.Lock()
_heard: dict[str, Heard] = {}


@contextmanager
def listening(folder: Path, container_id: str, name: str, role: str) -> Iterator[None]:
    """Counts from now on; the container is to be started in the block."""
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(log_pipes.opened(folder, container_id))
        except OSError as error:
            _log.warning("denied system calls of %s are not seen: %s", name, error)
        else:
            threading.Thread(
                target=_listen, args=(reader, Heard(container_id, name, role)), name=f"log of {name}", daemon=True
            ).start()
        yield


def take() -> list[Heard]:
    """All that were denied something; those that have ended are given this once."""
    with _lock:
        found = [replace(each, calls=Counter(each.calls)) for each in _heard.values()]
        for each in found:
            if each.has_ended:
                del _heard[each.container_id]
    return found


def _listen(reader: int, heard: Heard) -> None:
    with os.fdopen(reader, "rb", buffering=0) as log:
        rest = b""
        while data := log.read(_READ):
            whole, _, rest = (rest + data).rpartition(b"\n")
            rest = rest[-_LONGEST_LINE:]
            if numbers := _DENIED.findall(whole):
                _count(heard, Counter(numbers))
            time.sleep(_PAUSE_S)
    with _lock:
        heard.has_ended = True


def _count(heard: Heard, numbers: Counter[bytes]) -> None:
    with _lock:
        for number, count in numbers.items():
            name = name_of(int(number))
            heard.calls[name if name in heard.calls or len(heard.calls) < _MOST_NAMES else UNKNOWN] += count
        _heard[heard.container_id] = heard
        for gone in [key for key, each in _heard.items() if each.has_ended][:-_KEPT]:
            del _heard[gone]
