"""`clawmarket sandbox run`, as a user meets it: real processes, real containers."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provider.sandbox import containers
from provider.sandbox.terminal import harmless
from tests.support.sandbox import Sandbox

COMMAND = [sys.executable, "-c", "import clawmarket_cli; clawmarket_cli.app()", "sandbox", "run"]


def start(sandbox: Sandbox, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "--folder", str(sandbox.paths.state.parent), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"CLAWMARKET_SANDBOX": "", "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )


def go(sandbox: Sandbox, *arguments: str) -> tuple[int, bytes, str]:
    process = start(sandbox, *arguments)
    out, said = process.communicate()
    assert containers.ours(sandbox.client) == []
    return process.returncode, out, said.decode()


def test_files_in_input_results_out_and_the_exit_code_handed_on(sandbox: Sandbox, tmp_path: Path) -> None:
    main, data = tmp_path / "main.py", tmp_path / "data"
    main.write_text("import sys; open('out/r', 'w').write(open('/in/data').read() + input()); sys.exit(7)")
    data.write_text("given")
    code, out, said = go(
        sandbox,
        *("--file", str(main), "--file", str(data), "--input", str(data), "--into", str(tmp_path / "results")),
        *("--", "main.py"),
    )
    assert (code, out) == (7, b""), said
    assert said.startswith("sandbox gvisor-systrap\n")
    assert "it ended with exit code 7" in said
    assert "results: 1 files, 10 bytes, in " in said
    assert (tmp_path / "results/r").read_text() == "givengiven"


def test_what_is_printed_is_handed_on_as_it_is(sandbox: Sandbox) -> None:
    source = (
        "import sys; sys.stdout.buffer.write(bytes(range(256))); open('out/x', 'w'); print('a fault', file=sys.stderr)"
    )
    code, out, said = go(sandbox, "--", "python", "-c", source)
    assert (code, out) == (0, bytes(range(256)))
    assert "a fault\n" in said
    assert "thrown away: name a folder with --into" in said


@pytest.mark.parametrize(
    ("options", "source", "code", "told"),
    [
        (["--seconds", "2"], "import time; time.sleep(300)", 124, "after 2 s; allow more time"),
        (["--cpu-seconds", "2"], "while True: pass", 124, "after 2 s of the processor"),
        (["--output", "1"], "while True: print('y' * 99)", 124, "printing more than 1,024 bytes"),
        (["--memory", "200"], "bytearray(300 << 20)", 137, "more than its 200 MiB"),
        ([], "import os; os.kill(os.getpid(), 11)", 139, "ended by signal 11"),
    ],
)
def test_every_end_is_told(sandbox: Sandbox, options: list[str], source: str, code: int, told: str) -> None:
    found, _, said = go(sandbox, *options, "--", "python", "-c", source)
    assert found == code, said
    assert told in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(sandbox: Sandbox, number: signal.Signals) -> None:
    process = start(sandbox, "--", "python", "-c", "import time; print('here', flush=True); time.sleep(300)")
    assert process.stdout
    assert process.stdout.readline() == b"here\n"  # it comes while the program runs
    assert len(containers.ours(sandbox.client)) == 2
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert b"somebody asked for it" in said
    assert containers.ours(sandbox.client) == []
    assert sandbox.client.volumes.list() == []
    assert not list(sandbox.paths.share.glob("job-*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--", "a.out"], "a.out is not among the files"),
        (["--file", "/nowhere", "--", "python"], "/nowhere is no file"),
        (["--file", "/a/x", "--file", "/b/x", "--", "python"], "the same name"),
        (["--memory", "0", "--", "python"], "every limit of a container is a positive number"),
    ],
)
def test_what_cannot_run_is_refused(sandbox: Sandbox, arguments: list[str], told: str) -> None:
    code, out, said = go(sandbox, *arguments)
    assert (code, out) == (125, b"")
    assert f"error: {told}" in said or told in said


def test_nothing_runs_without_a_sandbox() -> None:
    """Another user, who can start no daemon."""
    process = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *COMMAND, "--folder", "/tmp/none", "--", "python"],
        capture_output=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert process.returncode == 125
    assert b"error: the sandbox's daemon does not answer" in process.stderr
    assert process.stdout == b""


def test_a_terminal_gets_no_control_characters() -> None:
    assert harmless("a\x1b[2Jb\rc\x9b1m\u202ed\te\n") == "a�[2Jb�c�1m�d\te\n"
