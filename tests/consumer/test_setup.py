"""`clawmarket consumer init`: what is refused before anything is written; that it works is in the provider's guide."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.cli import PASSWORD_VARIABLE, app
from protocol.chain.deployments import ContractRecord, Deployment, Profile

RPC = "http://127.0.0.1:1"


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    profile = Profile("anvil", confirmations=1)
    contracts = {"LeaseEscrow": ContractRecord("0x" + "11" * 20, bytes(32), bytes(32))}
    return Deployment(31337, bytes(32), 1, profile, contracts).save(tmp_path / "deployments")


def init(folder: Path, deployment: Path, *options: str) -> tuple[int, str]:
    command = ["init", str(folder), f"--rpc={RPC}", f"--deployment={deployment}", *options]
    done = CliRunner(env={PASSWORD_VARIABLE: "correct horse"}).invoke(app, command)
    return done.exit_code, done.stderr


@pytest.mark.parametrize("options", [(), ("--tokenizer=m.gguf", "--accept-unverified")])
def test_init__counting_left_open__is_refused(tmp_path: Path, deployment: Path, options: tuple[str, ...]) -> None:
    code, error = init(tmp_path / "new", deployment, *options)
    assert (code, "either --tokenizer" in error) == (1, True)


def test_init__no_node__writes_nothing(tmp_path: Path, deployment: Path) -> None:
    code, error = init(tmp_path / "new", deployment, "--accept-unverified")
    assert code == 1
    assert "127.0.0.1:1" in error
    assert not (tmp_path / "new").exists()


def test_init__no_deployment_file__says_how_to_get_one(tmp_path: Path) -> None:
    code, error = init(tmp_path / "new", tmp_path / "none.json", "--accept-unverified")
    assert (code, "ape run deploy" in error) == (1, True)


def test_init__existing_configuration__is_kept(tmp_path: Path, deployment: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "consumer.toml").write_text("mine")
    code, error = init(tmp_path / "new", deployment, "--accept-unverified")
    assert (code, "consumer.toml exists" in error) == (1, True)
    assert (tmp_path / "new" / "consumer.toml").read_text() == "mine"
