"""The processes of one run: started, waited for, killed, and none of them left behind."""

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from scripts.demo.failed import DemoFailed

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0


class Processes:
    """Stopped in reverse order whatever happens."""

    def __init__(self, folder: Path) -> None:
        """Their output goes into `folder`."""
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], ready: str) -> str:
        """Starts a process and waits for the line that matches `ready`; returns the match's first group."""
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        process = subprocess.Popen(
            [*guard, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self._running[name] = process
        assert process.stdout is not None
        return _wait_for_line(name, process.stdout, re.compile(ready), self._log_file(name))

    def start_clawmarket(self, name: str, *arguments: str | Path, ready: str = r"serves on (http://[^\s\"]+)") -> str:
        """Starts a `clawmarket` server and waits as `start` does; returns the address it serves on."""
        return self.start(name, [sys.executable, str(ROOT / "clawmarket_cli.py"), *map(str, arguments)], ready)

    def log(self, name: str) -> str:
        """What it wrote so far."""
        return self._log_file(name).read_text(errors="replace")

    def _log_file(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.log"

    def pid(self, name: str) -> int:
        """The process id."""
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def end(self, name: str) -> None:
        """SIGTERM, after which it ends by itself. Raises DemoFailed unless with code 0."""
        process = self._running.pop(name)
        code = _end(process)
        if code != 0:
            raise DemoFailed(f"{name} ended with code {code}")

    def wait(self, name: str) -> int:
        """Until it ends by itself; returns its code."""
        return self._running[name].wait()

    def close(self) -> None:
        """Ends all of them."""
        while self._running:
            _end(self._running.popitem()[1])


def _end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _wait_for_line(name: str, output: IO[bytes], ready: re.Pattern[str], log: Path) -> str:
    found: list[str] = []
    event = threading.Event()

    def read() -> None:
        with log.open("ab") as file:
            for line in output:
                file.write(line)
                file.flush()
                match = ready.search(line.decode(errors="replace"))
                if match and not found:
                    found.append(match[1])
                    event.set()
        event.set()

    threading.Thread(target=read, daemon=True).start()
    event.wait(START_TIMEOUT_S)
    if not found:
        tail = log.read_text(errors="replace").strip().splitlines()[-8:] if log.exists() else []
        raise DemoFailed(f"{name} did not start: " + " | ".join(tail))
    return found[0]
