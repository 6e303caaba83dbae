"""Model files checked in a container of their own, before anything of this machine's reads them."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from provider.exceptions import ConfigError
from provider.sandbox import containers, model_checks
from provider.sandbox.model_checks import ModelChecks
from provider.sandbox.paths import VARIABLE
from provider.sandbox.policy import Limits
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.provider.test_models_library import CONFIG
from tests.support.anvil import ROOT
from tests.support.engines import tiny_model
from tests.support.sandbox import Sandbox


def checks_of(sandbox: Sandbox, tier: Tier = Tier.RUNC_SECCOMP) -> ModelChecks:
    return ModelChecks(sandbox.client, sandbox.paths, tier, sandbox.image)


def is_nothing_left(sandbox: Sandbox) -> bool:
    return not [each for each in containers.listed(sandbox.client) if each.role == model_checks.ROLE]


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_a_whole_model_passes_and_a_damaged_one_is_named(sandbox: Sandbox, tier: Tier, tmp_path: Path) -> None:
    checks = checks_of(sandbox, tier)
    checks.check(tiny_model())
    path = tmp_path / f"{tier.value}.gguf"
    path.write_bytes(tiny_model().read_bytes() + tier.value.encode() * 64)
    for _ in range(2):
        with pytest.raises(ConfigError, match="after its last tensor belong to nothing"):
            checks.check(path)
    assert is_nothing_left(sandbox)


def test_a_verdict_is_remembered_for_the_bytes_and_not_for_the_name(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = checks_of(sandbox)
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_model().read_bytes())
    checks.check(path)
    made: list[str] = []
    make = containers.make

    def counted(*arguments: object) -> object:
        made.append("container")
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(containers, "make", counted)
    checks_of(sandbox).check(path)
    assert made == []
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ConfigError, match="version 0"):
        checks.check(path)
    assert made == ["container"]


def test_a_check_that_takes_too_long_is_ended(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "slow.gguf"
    path.write_bytes(tiny_model().read_bytes() + b"slow")
    with pytest.raises(ConfigError, match="takes too long"):
        checks_of(sandbox).check(path, within_s=0)
    assert is_nothing_left(sandbox)


def test_a_check_that_needs_too_much_memory_is_ended(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_checks, "LIMITS", Limits(memory=32 << 20, pids=16, tmp=1 << 20))
    path, key = tmp_path / "large.gguf", b"tokenizer.ggml.tokens"
    head = struct.pack("<4sIQQQ", b"GGUF", 3, 1, 1, len(key)) + key + struct.pack("<IIQ", 9, 8, 1 << 20)
    path.write_bytes(head + b"".join(struct.pack("<Q7s", 7, b"%07d" % number) for number in range(1 << 20)))
    with pytest.raises(ConfigError, match="more than 32 MiB of memory"):
        checks_of(sandbox).check(path)
    assert is_nothing_left(sandbox)


def models(sandbox: Sandbox, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, VARIABLE: str(sandbox.paths.state.parent)}
    line = [sys.executable, str(ROOT / "clawmarket_cli.py"), "models", *arguments]
    return subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)


def test_the_command_says_whether_a_file_is_safe(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_model().read_bytes()[:-64])
    passed = models(sandbox, "check", str(tiny_model()))
    assert (passed.returncode, passed.stdout) == (0, f"{tiny_model()}  safe to load\n"), passed.stderr
    refused = models(sandbox, "check", str(path))
    assert refused.returncode == 1
    assert f"error: model file {path} is not safe to load: the tensor" in refused.stderr
    assert "it was cut off" in refused.stderr


def test_a_damaged_file_is_not_registered(sandbox: Sandbox, tmp_path: Path) -> None:
    config, path = tmp_path / "provider.toml", tmp_path / "longer.gguf"
    config.write_text(CONFIG)
    path.write_bytes(tiny_model().read_bytes() + b"registered" * 64)
    refused = models(sandbox, "add", str(path), f"--config={config}")
    assert refused.returncode == 1
    assert "belong to nothing" in refused.stderr
    assert "there are no models" in models(sandbox, "list", f"--config={config}").stdout
    assert models(sandbox, "add", str(tiny_model()), f"--config={config}").returncode == 0
