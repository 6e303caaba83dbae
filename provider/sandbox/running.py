"""Runs a program of somebody else's: files in, what it prints while it prints it, files out, and nothing left.

Inside, `/in` holds the given files, which nobody can change, and `/work` is the one folder to write to: it is in
memory, its size and number of files are bounded, and what the program leaves in `/work/out` is its result. Results are
read after the last of its processes has ended.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from docker.errors import DockerException
from docker.models.containers import Container
from requests.exceptions import RequestException

from provider.sandbox import containers
from provider.sandbox.boxes import Box, open_box
from provider.sandbox.collecting import Collected, ResultLimits, collect
from provider.sandbox.daemon import Client
from provider.sandbox.errors import ContainerError, JobError
from provider.sandbox.figures import Figures, Gauge
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.policy import Limits
from provider.sandbox.staging import command_of, copy_into
from provider.sandbox.streaming import Stop, Stream, pump
from provider.sandbox.tiers import Tier
from provider.sandbox.warm import WarmPool, first_line

ROLE = "job"
_END_S = 15.0
_KILLED = 137
_NEAR = 0.9  # of the memory: what was killed there was killed for it
_GONE = (DockerException, RequestException)


class Ending(StrEnum):
    """How a program ended."""

    EXITED = "exited"
    TIME = "time"
    PROCESSOR = "processor"
    MEMORY = "memory"
    OUTPUT = "output"
    STOPPED = "stopped"
    KILLED = "killed"


@dataclass(frozen=True)
class RunLimits:
    """How much a run may take: `seconds` of time, `work` bytes in `work_files` files, `output` bytes to print.

    `processor` is in seconds of one core, all processes together, as the host counts them: gVisor's own work, about
    half a second for the start, is in it. `box` is what any container is limited in. What is in the work folder counts
    as memory.
    """

    seconds: float = 60.0
    processor: float = math.inf
    box: Limits = field(default_factory=lambda: Limits(memory=512 << 20, pids=64, tmp=16 << 20))
    work: int = 64 << 20
    work_files: int = 1024
    output: int = 1 << 20
    results: ResultLimits = field(default_factory=ResultLimits)

    def __post_init__(self) -> None:
        """Refuses what could never run."""
        if not 0 < self.seconds <= 7 * 86_400 or self.output < 0:
            raise ValueError("a run lasts up to a week, and its output is limited")
        if not self.processor > 0:
            raise ValueError("a run needs some seconds of the processor")


@dataclass(frozen=True)
class Program:
    """What to run: a command of the image, or one of `files`, whose contents or places are given by name."""

    command: list[str]
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    given: bytes | None = None
    """What it reads from its standard input; None for an empty one."""


@dataclass(frozen=True)
class Place:
    """Where to run: the daemon, its folders, the tier that passed its probe, an image it has, GPUs' device nodes."""

    client: Client
    paths: SandboxPaths
    tier: Tier
    image: str
    gpu: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run went; `why` says it in words, with what to do about it."""

    ending: Ending
    exit_code: int | None
    why: str
    seconds: float
    results: Collected

    @property
    def succeeded(self) -> bool:
        """Whether the program ended by itself and without a fault."""
        return self.ending is Ending.EXITED and self.exit_code == 0


Printed = Callable[[Stream, bytes], None]


def run(
    place: Place,
    program: Program,
    into: Path,
    limits: RunLimits | None = None,
    *,
    printed: Printed = lambda _stream, _data: None,
    stop: threading.Event | None = None,
    pool: WarmPool | None = None,
) -> Outcome:
    """Runs a program; its results are put into the folder `into`, which must be new or empty.

    `printed` gets what it prints as it comes; if it raises, the program ends. A container that waits in `pool` is used
    if there is one with the same limits. Raises JobError for a request that
    cannot be met, ContainerError if the sandbox fails.
    """
    limits = limits or RunLimits()
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise JobError(f"{into} is not empty: results go to a new folder")
    command = command_of(program.command, program.files)
    with ExitStack() as stack:
        if pool and (box := pool.take(place, limits, stack)):
            copy_into(box.files, program.files)
            given = first_line(command) + (program.given or b"")
        else:
            takes_input = program.given is not None
            box = stack.enter_context(open_box(place, ROLE, command, limits, program.files, takes_input=takes_input))
            given = program.given or b""
        outcome = _watched(box, given, limits, printed, stop or threading.Event())
        containers.remove(box.container)
        return Outcome(*outcome, results=collect(box.holder.archive, into, limits.results))


async def run_async(
    place: Place,
    program: Program,
    into: Path,
    limits: RunLimits | None = None,
    *,
    printed: Printed = lambda _stream, _data: None,
) -> Outcome:
    """`run` in a thread of its own. When cancelled it ends the program, and returns after everything is gone."""
    stop = threading.Event()
    going = asyncio.ensure_future(asyncio.to_thread(run, place, program, into, limits, printed=printed, stop=stop))
    try:
        return await asyncio.shield(going)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(JobError, ContainerError):
            await going
        raise


def _watched(
    box: Box, given: bytes, limits: RunLimits, printed: Printed, stop: threading.Event
) -> tuple[Ending, int | None, str, float]:
    started = time.monotonic()
    gauge = _gauge(box.container)
    before = (gauge and gauge.read()) or Figures()
    seen = [before]

    def look() -> Stop | None:
        if gauge and (now := gauge.read()):
            seen[:] = [now]
            if now.cpu_s - before.cpu_s >= limits.processor:
                return Stop.PROCESSOR
        return Stop.ASKED if stop.is_set() else None

    cause = pump(box.link.socket, given, printed, limits.output, started + limits.seconds, look)
    if cause is not Stop.ENDED:
        box.link.socket.close()  # the daemon would wait for us to read the rest
        with contextlib.suppress(*_GONE):
            box.container.kill()
    state = _end_of(box.container)
    seconds = time.monotonic() - started
    return (*explain(state, cause, limits, seen[0].memory_peak), seconds)


def _gauge(container: Container) -> Gauge | None:
    with contextlib.suppress(*_GONE):
        container.reload()
        return Gauge.of(int(container.attrs["State"]["Pid"]))
    return None


def _end_of(container: Container) -> dict[str, Any]:
    try:
        container.wait(timeout=_END_S)
        container.reload()
    except _GONE as error:
        raise ContainerError(f"the run cannot be followed to its end: {error}") from error
    return dict(container.attrs["State"])


def explain(state: dict[str, Any], cause: Stop, limits: RunLimits, peak: int) -> tuple[Ending, int | None, str]:
    """What a container's end means. The daemon does not always notice that memory was the reason."""
    code = int(state["ExitCode"])
    memory = f"{limits.box.memory / 2**20:,.0f} MiB of memory, which hold its work folder too; allow more of it"
    if cause is Stop.TIME:
        return Ending.TIME, None, f"it was ended after {limits.seconds:g} s; allow more time"
    if cause is Stop.PROCESSOR:
        return Ending.PROCESSOR, None, f"it was ended after {limits.processor:g} s of the processor; allow more of them"
    if cause is Stop.OUTPUT:
        return Ending.OUTPUT, None, f"it was ended for printing more than {limits.output:,} bytes; let it write a file"
    if cause is Stop.ASKED:
        return Ending.STOPPED, None, "it was ended because somebody asked for it"
    if state.get("OOMKilled") or (code == _KILLED and peak > limits.box.memory * _NEAR):
        return Ending.MEMORY, code, f"it needed more than its {memory}"
    if code == _KILLED:
        return Ending.KILLED, code, f"it was killed: by itself, by somebody, or for needing more than its {memory}"
    if code > 128:
        return Ending.KILLED, code, f"it was ended by signal {code - 128}"
    return Ending.EXITED, code, f"it ended with exit code {code}"
