"""The demo passes, a killed provider included, and leaves nothing behind however it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from provider.sandbox.paths import VARIABLE
from provider.sandbox.tiers import PRODUCTION_TIERS
from tests.support.anvil import ROOT, wait_for
from tests.support.engine_slots import hold_engine_slots

COMMAND = [sys.executable, "-m", "scripts.demo"]
SETTLED = re.compile(r"(provider \d) settled (\S+) USDC on chain")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def pids_in(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"(?:anvil|worker|gateway|indexer) (\d+)", output)]


def figures_in(output: str) -> dict[str, int]:
    return {name.strip(): int(units) for name, units in re.findall(r"│ ([^│]+) │ +[\d.]+ │ +(\d+) │", output)}


@contextmanager
def started(log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    # a shell's background job, which these tests may be, ignores interrupts, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    its_own = {name: value for name, value in os.environ.items() if name != VARIABLE}
    with log.open("wb") as file:
        process = subprocess.Popen(COMMAND, cwd=ROOT, env=its_own | environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A demo that stays up after its end."""
    log = tmp_path_factory.mktemp("kept") / "demo.log"
    with hold_engine_slots(2), started(log, KEEP="1") as process:
        wait_for(lambda: "until Ctrl-C" in log.read_text() or process.poll() is not None, timeout=240)
        assert process.poll() is None, log.read_text()
        yield process, log


def test_demo__second_provider_finishes_what_the_first_began(kept: tuple[subprocess.Popen[bytes], Path]) -> None:
    output = kept[1].read_text()
    killed = re.search(r"\[(provider \d) is killed\].*\[provider/(\d)/\S+ goes on\]", output, re.DOTALL)
    assert killed is not None, output
    assert f"provider {killed[2]}" != killed[1]
    tables = [part.partition("the whole answer")[0] for part in output.split("Who answered")[1:]]
    routes = [re.findall(r"provider/(\d)/", part) for part in tables]
    assert routes[1] == [killed[1][-1], killed[2]]
    assert len(routes[0]) == 1
    assert [name for name, _ in SETTLED.findall(output)] == [f"provider {killed[2]}", killed[1]]


def test_demo__every_worker_runs_in_the_sandbox_that_its_terms_promise(
    kept: tuple[subprocess.Popen[bytes], Path],
) -> None:
    output = kept[1].read_text()
    promised = dict(re.findall(r"(provider \d).* published offer \d+: \S+ in the sandbox ([a-z-]+)", output))
    found = re.findall(r"(provider \d) .*inside (\S+) as its terms promise", output)
    assert promised.keys() == {"provider 1", "provider 2"}
    assert len(found) == 3  # the killed one starts anew
    assert all(promised[name] == tier for name, tier in found)
    assert set(promised.values()) <= {tier.value for tier in PRODUCTION_TIERS}


def test_demo__budgets_receipts_and_sums__are_shown_and_right(kept: tuple[subprocess.Popen[bytes], Path]) -> None:
    output = kept[1].read_text()
    on_chain, _, in_tables = output.partition("The same from Postgres")
    figures, indexed = figures_in(on_chain), figures_in(in_tables)
    owed = [figures[f"owed to provider {number} by vouchers"] for number in (1, 2)]
    settled = [figures[f"settled by provider {number}"] for number in (1, 2)]
    earned = [figures[f"credit of provider {number}"] for number in (1, 2)]
    assert owed == settled
    assert min(owed) > 0
    assert earned == [units - units * 500 // 10_000 for units in settled]
    assert figures["consumer's debit"] == figures["credits + fees"] == sum(owed)
    assert figures["all fees"] == sum(settled) - sum(earned)
    assert indexed == {name: figures[name] for name in indexed}
    assert len(indexed) == 2 * len(owed) + 2
    assert "all, per day" in output
    assert "every receipt proven under an anchored root" in output
    assert re.search(r"all sums match, [\d.]+ s", output)


def test_kept__printed_lines_work_and_ctrl_c_ends_all(kept: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, log = kept
    output = log.read_text()
    curl = re.search(r"  (curl .*?}')\n", output, re.DOTALL)
    key, url = re.search(r"API key   (\S+)", output), re.search(r"base URL  (\S+)", output)
    assert curl is not None
    assert key is not None
    assert url is not None
    done = subprocess.run(["bash", "-c", curl[1]], capture_output=True, text=True, timeout=120, check=True)
    assert '"finish_reason"' in done.stdout, done.stdout
    python = output[output.index("  from pathlib") :].partition("\n\n")[0]
    names: dict[str, openai.OpenAI] = {}
    exec("\n".join(line.strip() for line in python.splitlines()), names)
    assert names["client"].api_key == key[1]
    with names["client"] as client:
        assert str(client.base_url).rstrip("/") == url[1]
        assert "auto" in [model.id for model in client.models.list()]
    folder = Path(re.findall(r"CLAWMARKET_CONSUMER=(\S+)/consumer/", output)[0])
    assert folder.is_dir()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, log.read_text()
    pids = pids_in(log.read_text())
    assert len(pids) == 8  # anvil, the indexer, two workers and one of them anew, the gateway three times
    assert not any(is_alive(pid) for pid in pids)
    assert not folder.exists()


def test_missing_model_fails_with_its_name(tmp_path: Path) -> None:
    run = subprocess.run(
        [*COMMAND, f"--model={tmp_path}/none.gguf"], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 1
    assert "demo failed" in run.stdout
    assert "none.gguf" in run.stdout
    assert pids_in(run.stdout) == []


@pytest.mark.parametrize(("how", "code", "last"), [(signal.SIGINT, 130, "anvil"), (signal.SIGTERM, 143, "worker")])
def test_interrupted_demo_leaves_no_process(tmp_path: Path, how: signal.Signals, code: int, last: str) -> None:
    log = tmp_path / "demo.log"
    with hold_engine_slots(1), started(log) as process:
        wait_for(lambda: f"{last} " in log.read_text() or process.poll() is not None, timeout=120)
        process.send_signal(how)
        assert process.wait(60) == code, log.read_text()
    pids = pids_in(log.read_text())
    assert pids
    assert not any(is_alive(pid) for pid in pids)
