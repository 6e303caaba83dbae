"""The one connection over which a container reads its input and writes its output.

It is spoken here and not by the client library, since the program's input must be closed while its output is read.
"""

import socket
from types import TracebackType
from typing import Self

from provider.sandbox.daemon import CALL_S, Client
from provider.sandbox.errors import ContainerError
from provider.sandbox.paths import SandboxPaths

_LONGEST_ANSWER = 16_384


class Attached:
    """A connection to a container, for the time of the block; open it before the container starts."""

    def __init__(self, client: Client, paths: SandboxPaths, container: str, *, takes_input: bool) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self._address = str(paths.socket)
        streams = "stream=1&stdout=1&stderr=1" + ("&stdin=1" if takes_input else "")
        self._request = (
            f"POST /v{client.api.api_version}/containers/{container}/attach?{streams} HTTP/1.1\r\n"
            "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )

    def __enter__(self) -> Self:
        """Raises ContainerError."""
        try:
            self.socket.settimeout(CALL_S)
            self.socket.connect(self._address)
            self.socket.sendall(self._request.encode())
            self._expect_stream()
        except BaseException as error:
            self.socket.close()
            if isinstance(error, OSError):
                raise ContainerError(f"the container's output cannot be read: {error}") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.socket.close()

    def _expect_stream(self) -> None:
        """Reads the answer's head byte by byte: what follows belongs to the program."""
        read = bytearray()
        while not read.endswith(b"\r\n\r\n"):
            if len(read) > _LONGEST_ANSWER or not (byte := self.socket.recv(1)):
                raise ContainerError("the sandbox's daemon does not speak its protocol")
            read += byte
        status = read.partition(b"\r\n")[0].decode(errors="replace")
        if status.split()[1:2] != ["101"]:
            raise ContainerError(f"the container's output cannot be read: {status}")
