"""`clawmarket models convert`: the same bytes whenever and on however many cores, the same model, clear refusals."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from provider.exceptions import ConfigError
from provider.model_card import describe_model
from provider.models.conversion import convert
from provider.models.files import sha256_of
from provider.models.library import well_known
from scripts.bench.quantisation import WINDOW, score
from scripts.default_model import NAME, default_model, packaged_model
from tests.support.anvil import ROOT
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model


def models_convert(source: Path, out: Path, cores: set[int] | None = None) -> subprocess.CompletedProcess[str]:
    launcher = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []
    command = [*launcher, sys.executable, "-m", "clawmarket_cli", "models", "convert", str(source), str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_the_default_model_comes_out_byte_for_byte(tmp_path: Path) -> None:
    convert(packaged_model(), tmp_path / "all-cores.gguf")
    one = models_convert(packaged_model(), tmp_path / "new" / "one-core.gguf", cores={min(os.sched_getaffinity(0))})
    assert one.returncode == 0, one.stderr
    digests = {sha256_of(path) for path in (default_model(), *tmp_path.rglob("*.gguf"))}
    assert len(list(tmp_path.rglob("*.gguf"))) == 2
    assert digests == {well_known()[NAME].gguf_sha256}
    assert f"wrote {tmp_path}/new/one-core.gguf, 138 MiB, SHA-256 {digests.pop()}" in one.stdout


def test_tokens_and_template_stay(tmp_path: Path) -> None:
    convert(tiny_model(), tmp_path / "out.gguf")
    source, made = describe_model(tiny_model(), "tiny"), describe_model(tmp_path / "out.gguf", "tiny")
    assert (source.quantisation, made.quantisation) == ("F32", "Q8_0")
    assert made.tokenizer_sha256 == source.tokenizer_sha256
    assert made.chat_template_sha256 == source.chat_template_sha256


@pytest.mark.slow
def test_the_model_stays_the_same_but_for_rounding() -> None:
    with hold_engine_slots(2):
        (before, likeliest_before), (after, likeliest_after) = score(packaged_model(), 1), score(default_model(), 1)
    assert len(before) == len(after) == WINDOW - 1
    assert 0 < np.abs(after - before).mean() < 0.1
    assert (likeliest_before == likeliest_after).mean() > 0.9


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("missing", "cannot be read: No such file"),
        ("not a model", "not a readable GGUF file"),
        ("cut", "cannot be converted: "),
        ("out is there", "exists: give another name"),
        ("no folder", "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(tmp_path: Path, wrong: str, reason: str) -> None:
    source, out = tmp_path / "source.gguf", tmp_path / "out.gguf"
    content = tiny_model().read_bytes()
    if wrong != "missing":
        source.write_bytes({"not a model": b"text", "cut": content[:-1000]}.get(wrong, content))
    if wrong == "out is there":
        out.write_bytes(b"mine")
    if wrong == "no folder":
        out = source / "out.gguf"
    there = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused = models_convert(source, out)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: ")
    assert reason in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "no further detail" not in refused.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == there


def test_an_unwritable_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        convert(tiny_model(), tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []
