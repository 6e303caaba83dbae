"""`llama_cpp.server`, a real OpenAI-compatible server in a process of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_S = 60.0


@dataclass
class LlamaServer:
    """One server; it may be killed and started again on the same port."""

    model: Path
    alias: str
    context: int
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Its API's address."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Returns when it answers."""
        options = {
            "model": self.model,
            "model_alias": self.alias,
            "host": "127.0.0.1",
            "port": self.port,
            "n_ctx": self.context,
            "n_threads": 2,
            "n_threads_batch": 2,
        }
        command = [sys.executable, "-m", "llama_cpp.server", *(f"--{name}={value}" for name, value in options.items())]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("llama_cpp.server does not start")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/models", timeout=2).is_success
        except httpx.HTTPError:
            return False


@contextmanager
def llama_server(model: Path, alias: str, context: int) -> Iterator[LlamaServer]:
    """A server until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = LlamaServer(model, alias, context, free.getsockname()[1])
    try:
        server.start()
        yield server
    finally:
        server.kill()
