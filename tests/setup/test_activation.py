"""The README's activation line, in a shell that knows nothing, gives Ape's users what they expect."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from protocol.chain.deployments import load
from scripts.deployment.artifacts import CONTRACTS
from tests.support.anvil import ROOT, Anvil


def activation_line() -> str:
    """The first command below the README's heading "Ape"."""
    section = (ROOT / "README.md").read_text().partition("\n### Ape\n")[2]
    found = re.search(r"```sh\n(.*)\n", section)
    assert found, "the README has no activation line"
    return found[1]


def in_clean_shell(commands: str) -> subprocess.CompletedProcess[str]:
    """Run after the activation line, in the checkout, with nothing of this process's environment but HOME."""
    environment = {"HOME": os.environ["HOME"], "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["/bin/bash", "--noprofile", "--norc", "-ec", f"{activation_line()}\n{commands}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_activation__clean_shell__finds_the_projects_tools() -> None:
    done = in_clean_shell("command -v ape python anvil cast vyper pytest clawmarket; .solcx/solc-v0.8.30 --version")
    assert done.returncode == 0, done.stderr
    paths = done.stdout.splitlines()
    assert all(path.startswith(f"{ROOT}/") for path in paths[:7]), paths
    assert "Version: 0.8.30+" in paths[-1]


def test_ape_compile__clean_shell__builds_every_contract() -> None:
    done = in_clean_shell("ape compile")
    assert done.returncode == 0, done.stderr
    assert (ROOT / ".build" / "__local__.json").exists()


def test_ape_test__clean_shell__runs_the_ape_tests_alone() -> None:
    done = in_clean_shell("ape test --collect-only -q")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert found
    assert all(line.startswith("tests/contracts/ape/") for line in found)
    done = in_clean_shell("ape test tests/contracts/ape/test_deployment.py -q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* passed", done.stdout)


def test_ape_run_deploy__clean_shell__deploys_and_verifies(tmp_path: Path) -> None:
    with Anvil() as node:
        command = f"ape run deploy --network {node.url} --folder {tmp_path}"
        done = in_clean_shell(command)
        assert done.returncode == 0, done.stdout + done.stderr
        deployment = load(31337, tmp_path)
        assert sorted(deployment.contracts) == sorted(CONTRACTS)
        block = node.block_number()
        done = in_clean_shell(command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "nothing to deploy" in done.stdout
        assert node.block_number() == block


@pytest.mark.parametrize("shared", ["contracts/modules/leases.vy", "contracts/interfaces/IRegistry.vyi"])
def test_ape__imported_source_changed__forgets_the_build(tmp_path: Path, shared: str) -> None:
    """In a copy of the sources: the launcher is what decides, so Ape itself is replaced by `true`."""
    for command in (
        ["cp", "-r", "contracts", "ape-config.yaml", str(tmp_path)],
        ["cp", "--parents", "scripts/bin/ape", str(tmp_path)],
    ):
        subprocess.run(command, cwd=ROOT, check=True)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "ape").symlink_to("/bin/true")
    build = tmp_path / ".build" / "__local__.json"

    def run_ape() -> bool:
        build.parent.mkdir(exist_ok=True)
        build.touch()
        subprocess.run([tmp_path / "scripts" / "bin" / "ape"], check=True)
        return build.exists()

    assert not run_ape()
    assert run_ape()
    with (tmp_path / shared).open("a") as file:
        file.write("\n# changed\n")
    assert not run_ape()
    assert run_ape()
