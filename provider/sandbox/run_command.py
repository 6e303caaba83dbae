"""`clawmarket sandbox run`: a program of somebody else's, on this machine, from the terminal."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from provider.sandbox.running import Outcome

_MIB = 1 << 20
_NOT_RUN = 125  # as of docker and timeout
_MADE_TO_END = 124


def run(
    command: Annotated[list[str], typer.Argument(metavar="PROGRAM [ARGUMENTS]…", help="python, or one of the files.")],
    files: Annotated[list[Path] | None, typer.Option("--file", help="Copied to /in; give it once for each.")] = None,
    into: Annotated[Path | None, typer.Option(help="New or empty folder for what it leaves in /work/out.")] = None,
    given: Annotated[
        Path | None, typer.Option("--input", exists=True, dir_okay=False, help="What its standard input reads.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(envvar="CLAWMARKET_SANDBOX", help="The sandbox's; by default the machine's.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long it may run.")] = 60.0,
    processor: Annotated[
        float | None, typer.Option("--cpu-seconds", help="How much of the processor, all its processes together.")
    ] = None,
    cpus: Annotated[float, typer.Option(help="Cores it may use at a time.")] = 1.0,
    memory: Annotated[int, typer.Option(help="MiB, its work folder in it.")] = 512,
    pids: Annotated[int, typer.Option(help="Processes and threads; gVisor takes 256 at least.")] = 64,
    work: Annotated[int, typer.Option(help="MiB of its work folder.")] = 64,
    gpu: Annotated[bool, typer.Option("--gpu", help="Pass this machine's NVIDIA GPUs.")] = False,  # noqa: FBT002
    output: Annotated[int, typer.Option(help="KiB that it may print.")] = 1024,
) -> None:
    """Run a program that nobody trusts, in the strongest sandbox that works here, and refuse without one.

    Exit code: the program's own; 124 if it took too long, too much of the processor or printed too much; 137 for
    memory; 130 after Ctrl-C; 125 if it could not be run.
    """
    from provider.sandbox.errors import JobError, SandboxError
    from provider.sandbox.paths import SandboxPaths
    from provider.sandbox.placing import open_place
    from provider.sandbox.policy import Limits
    from provider.sandbox.running import Program, RunLimits
    from provider.sandbox.running import run as run_program
    from provider.sandbox.terminal import Printer

    try:
        with _asked_to_stop() as stop, TemporaryDirectory(prefix="clawmarket-run-") as unwanted:
            named = {file.name: file for file in files or []}
            if len(named) < len(files or []):
                raise JobError("two of the files have the same name")
            limits = RunLimits(
                seconds=seconds,
                box=Limits(memory=memory * _MIB, cpus=cpus, pids=pids, tmp=16 * _MIB),
                work=work * _MIB,
                output=output << 10,
                processor=math.inf if processor is None else processor,
            )
            program = Program(command, named, given.read_bytes() if given else None)
            with open_place(SandboxPaths.find(folder), gpu=gpu) as place:
                typer.echo(f"sandbox {place.tier}", err=True)
                outcome = run_program(place, program, into or Path(unwanted), limits, printed=Printer(), stop=stop)
            _explain(outcome, into)
    except (SandboxError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(_NOT_RUN) from error
    raise typer.Exit(exit_code(outcome))


def exit_code(outcome: "Outcome") -> int:
    """What the command ends with."""
    from provider.sandbox.running import Ending

    if outcome.ending is Ending.STOPPED:
        return 128 + signal.SIGINT
    if outcome.ending is Ending.MEMORY:
        return 128 + signal.SIGKILL
    return _MADE_TO_END if outcome.exit_code is None else outcome.exit_code


def _explain(outcome: "Outcome", into: Path | None) -> None:
    found = outcome.results.files
    told = f"{outcome.why} ({outcome.seconds:.1f} s)"
    if found:
        where = f"in {into}" if into else "thrown away: name a folder with --into"
        told += f"; results: {len(found)} files, {sum(found.values()):,} bytes, {where}"
    typer.echo(told, err=True)
    for reason in outcome.results.left_out:
        typer.echo(f"left out: {reason}", err=True)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by Ctrl-C or SIGTERM, so that the run ends the way it always does: with nothing left behind."""
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
