"""The command's own errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.anvil import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "clawmarket_cli.py"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_the_parts() -> None:
    answer = run("--help")
    assert answer.returncode == 0
    assert "provider" in answer.stdout
    assert "consumer" in answer.stdout


def test_parts_are_imported_when_used() -> None:
    code = (
        "import sys, clawmarket_cli; sys.argv = ['clawmarket', 'provider']; clawmarket_cli._app(); "
        "print('consumer.cli' in sys.modules, 'provider.cli' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("part", ["provider", "consumer"])
def test_missing_files_are_named(tmp_path: Path, part: str) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    command = {
        "provider": ["provider", "run", f"--config={tmp_path}/none.toml"],
        "consumer": ["consumer", "leases", f"--config={tmp_path}/none.toml"],
    }[part]
    answer = run(*command, f"--password-file={password}")
    assert answer.returncode == 1
    assert "none.toml" in answer.stderr
    assert "Traceback" not in answer.stderr
