"""The rules of the test run itself: skips fail, nothing is lost from the sums, engines wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scripts import run_tests
from scripts.run_tests import Suite, Tally, read_report, run_suite
from tests.support.anvil import ROOT
from tests.support.engine_slots import hold_engine_slots


def run_pytest(folder: Path, code: str) -> tuple[int, Tally]:
    """Run test code under the project's rules; the exit status and what the report counts."""
    file = folder / "test_sample.py"
    file.write_text("import pytest\n" + textwrap.dedent(code))
    report = folder / "report.xml"
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"),
        *("-p", "no:ape_test", "-p", "no:boa_test", "-p", "tests.conftest", "-p", "no:cacheprovider"),
        *(f"--junitxml={report}", str(file)),
    ]
    status = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode
    return status, read_report(report)


@pytest.mark.parametrize(
    "code",
    [
        "def test_a(): pytest.skip('no tool')",
        "@pytest.mark.skip\ndef test_a(): pass",
        "@pytest.mark.skipif(True, reason='no tool')\ndef test_a(): pass",
        "@pytest.fixture\ndef tool(): pytest.skip('no tool')\ndef test_a(tool): pass",
        "pytest.skip('no tool', allow_module_level=True)",
        "missing = pytest.importorskip('no_such_module')\ndef test_a(): pass",
    ],
)
def test_skip__without_gpu_marker__fails(tmp_path: Path, code: str) -> None:
    status, tally = run_pytest(tmp_path, code)
    assert status != 0
    assert (tally.passed, tally.failed, tally.skipped) == (0, 1, 0)


def test_skip__with_gpu_marker__is_counted(tmp_path: Path) -> None:
    status, tally = run_pytest(tmp_path, "@pytest.mark.gpu\ndef test_a(): pytest.skip('no GPU')\ndef test_b(): pass")
    assert status == 0
    assert (tally.passed, tally.failed, tally.skipped) == (1, 0, 1)


def test_warning__in_a_test__fails(tmp_path: Path) -> None:
    status, tally = run_pytest(tmp_path, "import warnings\ndef test_a(): warnings.warn('careless')")
    assert (status, tally.failed) == (1, 1)


def test_marker__unknown__fails(tmp_path: Path) -> None:
    status, _ = run_pytest(tmp_path, "@pytest.mark.gpuu\ndef test_a(): pass")
    assert status != 0


def test_report__every_outcome__is_counted(tmp_path: Path) -> None:
    _, tally = run_pytest(
        tmp_path,
        """
        @pytest.fixture
        def broken(): raise RuntimeError
        def test_passes(): pass
        def test_fails(): assert False
        def test_errs(broken): pass
        @pytest.mark.xfail
        def test_is_known_to_fail(): assert False
        """,
    )
    named = ["::test_fails: assert False", '::test_errs: failed on setup with "RuntimeError"']
    assert tally == Tally(passed=1, failed=2, skipped=0, expected_failures=1, failures=named)


def test_suite__ends_without_a_report__counts_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)
    suite = Suite("dead", ("false",), ("setup",))
    assert run_suite(suite, "not soak", "ci", may_be_empty=False).tally == Tally(failed=1)


def test_suite__without_tests__counts_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)
    suite = Suite("empty", run_tests.PLAIN, ("setup/test_locks.py",))
    assert run_suite(suite, "gpu", "ci", may_be_empty=False).tally == Tally(failed=1)
    assert run_suite(suite, "gpu", "ci", may_be_empty=True).tally == Tally()


def test_suites__together__hold_every_test_file() -> None:
    listed = [file for partition in run_tests.partitions() for suite in partition.suites for file in suite.files()]
    assert sorted(listed) == sorted(run_tests.TESTS.rglob("test_*.py"))


def test_engine_slots__both_taken__third_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "from tests.support.engine_slots import hold_engine_slots\nwith hold_engine_slots(1): print('in', flush=True)"
    )
    with hold_engine_slots(2):
        other = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env={"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE
        )
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1.5)
    output, _ = other.communicate(timeout=30)
    assert output == b"in\n"
    assert other.returncode == 0


def test_engine_slots__taken_again_by_their_holder__do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with hold_engine_slots(1), hold_engine_slots(2), hold_engine_slots(1):
        pass
    with hold_engine_slots(2):
        assert (tmp_path / f"clawmarket-engines-{os.getuid()}").is_dir()


def test_engine_slots__more_than_there_are__is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 2 engines, not 3"), hold_engine_slots(3):
        pass


def test_bench__unknown_name__lists_what_there_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench", "nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no benchmark nonsense" in done.stderr
