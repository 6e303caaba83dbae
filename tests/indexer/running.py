"""`clawmarket indexer run` as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.anvil import ROOT

END_S = 60.0


def command(name: str, file: Path) -> list[str]:
    return [sys.executable, "-m", "clawmarket_cli", "indexer", name, "--config", str(file)]


@contextmanager
def running(file: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Until the end of the block, where it must end by itself when it is told to."""
    with log.open("wb") as output:
        process = subprocess.Popen(command("run", file), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
        process.terminate()
        assert process.wait(END_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
