"""Carries a program's input and output, and notices when it takes too long or prints too much."""

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable
from enum import Enum, auto

from provider.sandbox.errors import ContainerError

_HEADER = struct.Struct(">BxxxI")
_LOOK_S = 0.1
_READ = 65_536


class Stream(Enum):
    """Where a program printed."""

    OUT = 1
    ERR = 2


class Stop(Enum):
    """Why the carrying ended."""

    ENDED = auto()
    TIME = auto()
    PROCESSOR = auto()
    OUTPUT = auto()
    ASKED = auto()


class _Frames:
    """Splits what the daemon sends: eight bytes that say which stream and how much, then that."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._stream = Stream.OUT
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[Stream, bytes]]:
        """What `data` completes, without waiting for whole frames. Raises ContainerError."""
        self._buffer += data
        found = []
        while self._buffer:
            if not self._left:
                if len(self._buffer) < _HEADER.size:
                    break
                kind, self._left = _HEADER.unpack_from(self._buffer)
                del self._buffer[: _HEADER.size]
                if kind not in (1, 2):
                    raise ContainerError("the sandbox's daemon does not speak its protocol")
                self._stream = Stream(kind)
                continue
            part = bytes(self._buffer[: self._left])
            del self._buffer[: len(part)]
            self._left -= len(part)
            found.append((self._stream, part))
        return found


def pump(
    link: socket.socket,
    given: bytes,
    printed: Callable[[Stream, bytes], None],
    most: int,
    until: float,
    look: Callable[[], Stop | None],
) -> Stop:
    """Carries until the program has closed its output, `most` bytes were printed, it is `until`, or `look` says so.

    No more than `most` bytes are handed on. Raises ContainerError, and whatever `printed` raises.
    """
    link.setblocking(False)
    frames, left, waiting, next_look = _Frames(), most, memoryview(given), 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while True:
            now = time.monotonic()
            if now >= until:
                return Stop.TIME
            if now >= next_look:
                if cause := look():
                    return cause
                next_look = now + _LOOK_S
            ready = {event for _, event in selector.select(min(_LOOK_S, until - now))}
            if any(event & selectors.EVENT_WRITE for event in ready):
                waiting = _send(link, waiting)
                if not waiting:
                    selector.modify(link, selectors.EVENT_READ)
            if any(event & selectors.EVENT_READ for event in ready):
                data = _receive(link)
                if data == b"":
                    return Stop.ENDED
                for stream, part in frames.feed(data or b""):
                    if left:
                        printed(stream, part[:left])
                    if len(part) > left:
                        return Stop.OUTPUT
                    left -= len(part)


def _send(link: socket.socket, waiting: memoryview) -> memoryview:
    """What is left to send; closes the program's input after the last of it, and when it reads no more."""
    try:
        if waiting:
            waiting = waiting[link.send(waiting[:_READ]) :]
    except BlockingIOError:
        return waiting
    except OSError:
        waiting = waiting[:0]
    if not waiting:
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_WR)
    return waiting


def _receive(link: socket.socket) -> bytes | None:
    try:
        return link.recv(_READ)
    except BlockingIOError:
        return None
    except OSError as error:
        raise ContainerError(f"the sandbox's daemon went away: {error}") from error
