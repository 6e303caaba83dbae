"""The README's session: its commands as one shell script, and the output it promises."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.anvil import ROOT, wait_for

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+|…")


class SessionFailed(Exception):  # noqa: N818
    """A command ended with an error; the message is what the session wrote."""


def section(heading: str) -> str:
    """The README's text below a heading of the second level."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    if not body:
        raise AssertionError(f"the README has no section {heading}")
    return body


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return [body for name, body in _FENCE.findall(text) if name == language]


def matches(promised: str, output: str) -> bool:
    """Whether a line was printed so, but for hex, numbers and what an ellipsis stands for."""
    pattern, end = "", 0
    for found in _VARYING.finditer(promised):
        wild = ".*" if found[0] == "…" else "0x[0-9a-fA-F]+" if found[0].startswith("0x") else r"\d+"
        pattern += re.escape(promised[end : found.start()]) + wild
        end = found.end()
    return re.search(f"^{pattern}{re.escape(promised[end:])}$", output, re.MULTILINE) is not None


class Session:
    """A bash that runs blocks of commands, with job control as in a terminal, and stops at the first failure."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._gate = folder / "go-on"
        self._reached = folder / "reached"

    @property
    def output(self) -> str:
        """What all commands wrote so far."""
        return (self._folder / "output").read_text(errors="replace")

    def start(self, before: str, after: str) -> None:
        """Runs `before`, and waits there; `finish` lets `after` run. Raises SessionFailed."""
        os.mkfifo(self._gate)
        script = self._folder / "session.sh"
        script.write_text(f'set -emuo pipefail\n{before}\ntouch "{self._reached}"\nread -r <"{self._gate}"\n{after}\n')
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                ["/bin/bash", "--noprofile", "--norc", str(script)],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(lambda: self._reached.exists() or self._has_ended(), timeout=270)
        if not self._reached.exists():
            raise SessionFailed(self.output)

    def finish(self) -> int:
        """Lets the rest run; returns the exit code."""
        assert self._process is not None
        self._gate.write_text("\n")
        return self._process.wait(150)

    def processes(self) -> list[int]:
        """Every process of this session that still runs."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if self._process and os.getsid(int(entry.name)) == self._process.pid and state != "Z":
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """Ends all of them."""
        for number in self.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if self._process:
            self._process.wait(10)

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


@contextmanager
def session(folder: Path, environment: Mapping[str, str]) -> Iterator[Session]:
    """A session of which nothing runs on afterwards."""
    running = Session(folder, environment)
    try:
        yield running
    finally:
        running.kill()
