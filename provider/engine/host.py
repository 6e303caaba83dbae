"""Where an engine may run: what its client asks of such a place, and of an engine that runs there."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

SOCKET = "engine.sock"
STDERR_BYTES = 4_096
EXIT_CODES = {"model_missing": 3, "model_damaged": 4, "out_of_memory": 5}
"""Of an engine that cannot start, by why."""
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class EngineSettings:
    """How to run the engine.

    `threads` beyond the cores given to this process are not started. `context` is in tokens per sequence, 0 for the
    model's own (at most 4096). With `vocabulary_only` it loads no weights, counts and tokenizes. `hang_s`: an engine
    silent for so long while it has work is ended and restarted; one decode of 64 tokens must take less. `memory` is
    what it takes by estimate, in bytes; 0 where nobody has estimated it yet.
    """

    model: Path
    threads: int = 1
    parallel: int = 4
    context: int = 0
    vocabulary_only: bool = False
    hang_s: float = 60.0
    memory: int = 0


class RunningEngine(Protocol):
    """An engine that was started."""

    @property
    def pid(self) -> int | None:
        """Its process on this machine, None if that cannot be known."""

    async def ended(self) -> str:
        """Waits until it has ended; says how, with its last words."""

    async def kill(self) -> None:
        """Ends it at once."""

    async def close(self, *, at_once: bool = False) -> str:
        """Gives it a moment to end by itself, unless `at_once`, then ends it, frees everything and says how it ended.

        Raises nothing.
        """


class EngineHost(Protocol):
    """A place for engines: this machine itself, or a sandbox on it."""

    def new_folder(self) -> TemporaryDirectory[str]:
        """A folder for one client's socket, which engines started here can reach."""

    async def start(self, settings: EngineSettings, folder: Path) -> RunningEngine:
        """Starts an engine that connects to `SOCKET` in `folder`. Raises EngineStartError, and then none is left."""


def arguments(settings: EngineSettings, model: str, socket: str) -> list[str]:
    """The engine's arguments, with paths as it sees them."""
    return [
        f"--model={model}",
        f"--socket={socket}",
        f"--threads={settings.threads}",
        f"--parallel={settings.parallel}",
        f"--context={settings.context}",
        *(["--vocabulary-only"] if settings.vocabulary_only else []),
    ]


def last_words(output: bytes) -> str:
    """The end of an engine's error output in one line."""
    text = output[-STDERR_BYTES:].decode(errors="replace")
    return " | ".join(text.split("\n")).strip(" |") or "no error output"
