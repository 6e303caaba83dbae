"""The demo passes, and leaves nothing behind however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.anvil import ROOT, wait_for
from tests.support.engine_slots import hold_engine_slots

COMMAND = [sys.executable, str(ROOT / "scripts" / "demo.py")]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def pids_in(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"(?:anvil|worker) (\d+)", output)]


def test_demo_passes_with_the_real_model() -> None:
    with hold_engine_slots(1):
        started = time.monotonic()
        run = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        elapsed = time.monotonic() - started
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all sums match" in run.stdout
    assert "receipt proven under the anchored root" in " ".join(run.stdout.split())
    assert len(pids_in(run.stdout)) == 2
    assert not any(is_alive(pid) for pid in pids_in(run.stdout))
    assert elapsed < 180


def test_missing_model_fails_with_its_name(tmp_path: Path) -> None:
    run = subprocess.run(
        [*COMMAND, f"--model={tmp_path}/none.gguf"], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 1
    assert "demo failed" in run.stdout
    assert "none.gguf" in "".join(run.stdout.split())
    assert not any(is_alive(pid) for pid in pids_in(run.stdout))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_no_process(tmp_path: Path, how: signal.Signals) -> None:
    log = tmp_path / "demo.log"
    # a shell's background job, which these tests may be, ignores interrupts, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as file:
        process = subprocess.Popen(COMMAND, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: pids_in(log.read_text()), timeout=60)
            process.send_signal(how)
            assert process.wait(60) in (130, 143)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert not any(is_alive(pid) for pid in pids_in(log.read_text()))
