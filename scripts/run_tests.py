"""Runs the test suites, each in the pytest it needs and two at a time, and sums what they report.

    python scripts/run_tests.py            everything but soak runs
    python scripts/run_tests.py --fast     without contract, indexer, sandbox, slow and end-to-end tests
    python scripts/run_tests.py --soak     the soak runs alone

The last line is `N passed, N failed, N skipped`. Fails when a test fails, when anything but a test that needs a GPU
was skipped, when a suite is empty, and when a test file belongs to no suite. A suite over its time budget is only
pointed out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / ".test-results"
TESTS = ROOT / "tests"
PROGRESS_S = 30.0
FAILURE_CHARACTERS = 200

PYTEST = (sys.executable, "-m", "pytest")
PLAIN = (*PYTEST, "-p", "no:ape_test", "-p", "no:boa_test")


@dataclass(frozen=True)
class Suite:
    """One pytest run over folders or files under tests/; `fast`: in `make test-fast` too; `gate` must pass after it."""

    name: str
    command: tuple[str, ...]
    paths: tuple[str, ...]
    fast: bool = True
    gate: tuple[str, ...] = ()

    def files(self) -> set[Path]:
        found: set[Path] = set()
        for path in self.paths:
            target = TESTS / path
            found |= {target} if target.is_file() else set(target.rglob("test_*.py"))
        return found


@dataclass(frozen=True)
class Partition:
    """Suites that share a time budget, in minutes."""

    name: str
    budget_min: int
    suites: tuple[Suite, ...]


@dataclass
class Tally:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    expected_failures: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.expected_failures += other.expected_failures
        self.failures += other.failures

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped + self.expected_failures} skipped"


def partitions() -> list[Partition]:
    """All of them, the longest suite first, so that none is left alone at the end.

    Those of parts that do not exist yet are empty and dropped by the caller.
    """
    set_files = tuple(sorted(f"contracts/{file.name}" for file in (TESTS / "contracts").glob("test_*.py")))
    machines = ("contracts/boa/test_escrow_invariants.py", "contracts/boa/test_staking_invariants.py")
    boa_files = tuple(sorted(f"contracts/boa/{file.name}" for file in (TESTS / "contracts/boa").glob("test_*.py")))
    coverage_file = "--rcfile=tests/contracts/coverage.ini"
    return [
        Partition("end to end", 8, (Suite("e2e", PLAIN, ("e2e", "setup"), fast=False),)),
        Partition(
            "contracts",
            9,
            (
                Suite("contracts-set", PLAIN, set_files, fast=False),
                Suite("contracts-machines", (*PYTEST, "-p", "no:ape_test"), machines, fast=False),
                Suite(
                    "contracts-boa",
                    ("coverage", "run", coverage_file, "-m", "pytest", "-p", "no:ape_test"),
                    tuple(file for file in boa_files if file not in machines),
                    fast=False,
                    gate=("coverage", "report", coverage_file),
                ),
                Suite("contracts-ape", ("ape", "test"), ("contracts/ape",), fast=False),
            ),
        ),
        Partition("protocol, provider", 5, (Suite("services", PLAIN, ("protocol", "provider")),)),
        Partition("gateway", 6, (Suite("consumer", PLAIN, ("consumer",)),)),
        Partition("indexer", 12, (Suite("indexer", PLAIN, ("indexer",), fast=False),)),
        Partition("sandbox", 9, (Suite("sandbox", PLAIN, ("sandbox",), fast=False),)),
        Partition("p2p", 5, (Suite("p2p", PLAIN, ("p2p",)),)),
        Partition("dApp", 6, (Suite("frontend", PLAIN, ("frontend",), fast=False),)),
    ]


@dataclass(frozen=True)
class Result:
    """How one suite ended, after how many seconds, and where its output is."""

    tally: Tally
    seconds: float
    log: Path


def run_suite(suite: Suite, markers: str, profile: str, *, may_be_empty: bool) -> Result:
    """Run one suite, its output into a log, and read its report."""
    report, log = RESULTS / f"{suite.name}.xml", RESULTS / f"{suite.name}.log"
    command = [
        *suite.command,
        *(f"tests/{path}" for path in suite.paths if (TESTS / path).exists()),
        *("-q", "-m", markers, "--durations=5", "--durations-min=5", f"--junitxml={report}"),
    ]
    start = time.monotonic()
    with log.open("w") as output:
        status = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"HYPOTHESIS_PROFILE": profile},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
        tally = read_report(report) if report.exists() else Tally()
        if status == 5 and may_be_empty:
            tally = Tally()
        elif status != 0 and tally.failed == 0:
            print(f"{suite.name}: ended with status {status} and no failed test", file=output)
            tally.failed = 1
        elif suite.gate and tally.passed and not may_be_empty:
            tally.failed += (
                subprocess.run(suite.gate, cwd=ROOT, stdout=output, stderr=output, check=False).returncode != 0
            )
    return Result(tally, time.monotonic() - start, log)


def run_all(suites: list[Suite], markers: str, profile: str, *, may_be_empty: bool) -> dict[str, Result]:
    """Run the suites two at a time, one for each core of the smallest machine; show each one's output as it ends."""
    results: dict[str, Result] = {}
    start = time.monotonic()
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {pool.submit(run_suite, s, markers, profile, may_be_empty=may_be_empty): s.name for s in suites}
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=PROGRESS_S, return_when=FIRST_COMPLETED)
            for future in done:
                name, result = futures[future], future.result()
                results[name] = result
                print(f"\n=== {name}: {result.tally} in {result.seconds:.0f} s", flush=True)
                print(result.log.read_text(errors="replace"), end="", flush=True)
            running = sorted(futures[future] for future in waiting if future.running())
            if not done:
                print(f"{time.monotonic() - start:>6.0f} s  running: {', '.join(running)}", flush=True)
    return results


def read_report(report: Path) -> Tally:
    """The sums of a JUnit report."""
    tally = Tally()
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - written by the run before
        skipped = case.find("skipped")
        broken = [found for found in (case.find("failure"), case.find("error")) if found is not None]
        if broken:
            tally.failed += 1
            message = " ".join((broken[0].get("message") or "").split())[:FAILURE_CHARACTERS]
            tally.failures.append(f"{case.get('classname')}::{case.get('name')}: {message}")
        elif skipped is None:
            tally.passed += 1
        elif skipped.get("type") == "pytest.xfail":
            tally.expected_failures += 1
        else:
            tally.skipped += 1
    return tally


def main() -> int:
    options = set(sys.argv[1:])
    if not options <= {"--fast", "--soak"} or len(options) > 1:
        print("usage: run_tests.py [--fast | --soak]", file=sys.stderr)
        return 2
    fast, soak = "--fast" in options, "--soak" in options
    markers = "soak" if soak else "not soak and not slow" if fast else "not soak"
    RESULTS.mkdir(exist_ok=True)
    for old in RESULTS.iterdir():
        old.unlink()

    total = Tally()
    problems: list[str] = []
    stray = set(TESTS.rglob("test_*.py")) - {f for p in partitions() for s in p.suites for f in s.files()}
    problems += [f"{file.relative_to(ROOT)} belongs to no suite" for file in sorted(stray)]
    if not fast and subprocess.run(["ape", "compile"], cwd=ROOT, check=False).returncode != 0:
        problems.append("the contracts do not compile")

    chosen = {
        partition.name: [suite for suite in partition.suites if suite.files() and (suite.fast or not fast)]
        for partition in partitions()
    }
    results = run_all(
        [suite for suites in chosen.values() for suite in suites],
        markers,
        "soak" if soak else "ci",
        may_be_empty=fast or soak,
    )
    for result in results.values():
        total.add(result.tally)

    if total.expected_failures:
        problems.append(f"{total.expected_failures} tests are expected to fail: mend or remove them")
    if total.passed == 0 and not soak:
        problems.append("no test ran")
    total.failed += len(problems)
    print()
    for partition in partitions():
        suites = [results[suite.name] for suite in chosen[partition.name]]
        if suites:
            seconds = sum(result.seconds for result in suites)
            over = seconds > partition.budget_min * 60 and not soak
            note = "  <- over its budget" if over else ""
            print(f"{partition.name:<20}{seconds:>7.0f} s of {partition.budget_min * 60:>4} s{note}")
    for failure in total.failures:
        print(f"failed: {failure}")
    for problem in problems:
        print(f"problem: {problem}")
    (RESULTS / "summary.txt").write_text(f"{total}\n")
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
