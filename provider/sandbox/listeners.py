"""Ports and a socket of the host that a sandbox must not be able to reach; they note whoever does."""

import secrets
import socket
import threading
from types import TracebackType
from typing import Any, Self

import psutil

_MOST_ADDRESSES = 3
_POLL_S = 0.1


class HostListeners:
    """Listens on the loopback address and on those of the machine, by TCP and UDP, and on an abstract Unix socket."""

    def __init__(self) -> None:
        self.abstract = f"clawmarket-probe-{secrets.token_hex(8)}"
        self.tcp: list[tuple[str, int]] = []
        self.udp: list[tuple[str, int]] = []
        self.heard: list[str] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ends = threading.Event()

    def __enter__(self) -> Self:
        """Starts listening."""
        for host in _addresses():
            self.tcp.append(self._listen(f"TCP {host}", socket.AF_INET, socket.SOCK_STREAM, (host, 0)))
            self.udp.append(self._listen(f"UDP {host}", socket.AF_INET, socket.SOCK_DGRAM, (host, 0)))
        self._listen("an abstract socket", socket.AF_UNIX, socket.SOCK_STREAM, "\0" + self.abstract)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops."""
        self._ends.set()
        for thread in self._threads:
            thread.join()
        for listener in self._sockets:
            listener.close()

    def _listen(self, name: str, family: int, kind: int, address: Any) -> Any:
        listener = socket.socket(family, kind)
        self._sockets.append(listener)
        listener.bind(address)
        listener.settimeout(_POLL_S)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        thread = threading.Thread(target=self._note, args=(name, listener, kind), daemon=True)
        self._threads.append(thread)
        thread.start()
        return listener.getsockname()

    def _note(self, name: str, listener: socket.socket, kind: int) -> None:
        while not self._ends.is_set():
            try:
                if kind == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.sendto(b"heard", listener.recvfrom(64)[1])
            except TimeoutError:
                continue
            except OSError:
                return
            self.heard.append(name)


def _addresses() -> list[str]:
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]
    return ["127.0.0.1", *found[: _MOST_ADDRESSES - 1]]
