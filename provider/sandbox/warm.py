"""Containers started ahead, each waiting for one program, so that a run need not wait for a container."""

import json
import logging
import threading
from collections import deque
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from docker.errors import DockerException
from requests.exceptions import RequestException

from provider.sandbox.boxes import Box, open_box
from provider.sandbox.errors import SandboxError
from provider.sandbox.image.interpreter import program

if TYPE_CHECKING:
    from provider.sandbox.running import Place, RunLimits

ROLE = "warm"
MOST = 16
_RETRY_S = 5.0
_WAIT = """
import json, os, signal, sys
line = b""
while not line.endswith(b"\\n"):
    part = os.read(0, 1)
    if not part:
        os._exit(0)
    line += part
command = json.loads(line)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
try:
    os.execv(command[0], command)
except OSError as error:
    sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\\n")
    sys.stderr.flush()
    os._exit(126)
"""
_log = logging.getLogger(__name__)


class WarmPool:
    """Up to `size` waiting containers of one place and one set of limits, for the time of the block.

    Each serves one run and is never used again. They may take `size` times the limits' memory together; waiting, each
    takes an interpreter's. Safe to use from several threads.
    """

    def __init__(self, place: "Place", limits: "RunLimits", size: int) -> None:
        """Raises ValueError for a size without sense."""
        if not 0 < size <= MOST:
            raise ValueError(f"a pool holds 1 to {MOST} containers")
        self._place = place
        self._limits = limits
        self._size = size
        self._ready: deque[tuple[Box, ExitStack]] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._filler = threading.Thread(target=self._fill, name="warm containers", daemon=True)

    def __enter__(self) -> Self:
        """Starts filling it, and returns at once."""
        self._filler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes what waits; runs that were given a container go on."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._filler.join()
        with ExitStack() as left:
            while self._ready:
                left.push(self._ready.popleft()[1])

    def __len__(self) -> int:
        """How many wait."""
        return len(self._ready)

    def wait_until_full(self, patience_s: float) -> bool:
        """Whether it is full within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._ready) == self._size, patience_s)

    def take(self, place: "Place", limits: "RunLimits", stack: ExitStack) -> Box | None:
        """A waiting box, which from now on lives as long as `stack`; None if none waits or the limits are others."""
        if place != self._place or _shape(limits) != _shape(self._limits):
            return None
        while True:
            with self._changed:
                if self._is_closing or not self._ready:
                    return None
                box, its = self._ready.popleft()
                self._changed.notify_all()
            stack.push(its)
            if _waits(box):
                return box

    def _fill(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or len(self._ready) < self._size)
                if self._is_closing:
                    return
            try:
                with ExitStack() as stack:
                    wait = [str(program()), "-I", "-S", "-c", _WAIT]
                    box = stack.enter_context(open_box(self._place, ROLE, wait, self._limits, {}, takes_input=True))
                    with self._changed:
                        self._ready.append((box, stack.pop_all()))
                        self._changed.notify_all()
            except (SandboxError, DockerException, RequestException) as error:
                _log.warning("no container could be started ahead: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closing, _RETRY_S)


def first_line(command: list[str]) -> bytes:
    """What a waiting container is told."""
    return json.dumps(command).encode() + b"\n"


def _shape(limits: "RunLimits") -> tuple[object, ...]:
    """What is fixed when a container is made."""
    return limits.box, limits.work, limits.work_files


def _waits(box: Box) -> bool:
    """Whether nobody has ended it meanwhile."""
    try:
        box.container.reload()
    except (DockerException, RequestException):
        return False
    return box.container.status == "running"
