"""What `clawmarket models` registers, and the names and files it refuses."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.models import ModelRegistry
from provider.exceptions import ConfigError
from provider.models import library as library_module
from provider.models.files import ChangedFile, FileDigests, ModelFile, sha256_of
from provider.models.library import ModelLibrary, well_known
from provider.models.machine import engine_threads, usable_cores, usable_memory
from scripts.default_model import NAME as DEFAULT_NAME
from scripts.default_model import default_model, packaged_model
from tests.support.engines import tiny_model
from tests.support.tiny_gguf import write_tiny_gguf

ROOT = Path(__file__).parents[2]
CONFIG = '[chain]\nrpc = ["http://127.0.0.1:1"]\ndeployment = "none.json"\n[provider]\nid = 1\n[serving]\n'


@pytest.mark.parametrize(
    ("file", "name"), [(packaged_model(), "smollm2-135m-instruct"), (default_model(), DEFAULT_NAME)]
)
def test_the_shipped_registry_names_the_default_model_and_its_source(tmp_path: Path, file: Path, name: str) -> None:
    model = ModelLibrary(tmp_path).add(file)
    assert model.entry.name == name
    assert replace(model.entry, licence="Apache-2.0") == well_known()[name]


def test_another_file_under_a_known_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ChangedFile, match="not the smollm2-135m-instruct that everybody knows: its gguf_sha256 is"
    ) as e:
        ModelLibrary(tmp_path).add(tiny_model(), "smollm2-135m-instruct")
    assert sha256_of(tiny_model()) in str(e.value)
    assert well_known()["smollm2-135m-instruct"].gguf_sha256 in str(e.value)
    assert "--name" in str(e.value)
    assert list(ModelLibrary(tmp_path)) == []


def test_another_file_under_a_registered_name_is_refused(tmp_path: Path) -> None:
    library = ModelLibrary(tmp_path)
    library.add(tiny_model(), "mine")
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=2)
    with pytest.raises(ChangedFile, match="is registered here"):
        ModelLibrary(tmp_path).add(other, "mine")
    library.remove("mine")
    assert ModelLibrary(tmp_path).add(other, "mine").path == other


def test_the_register_survives_and_is_a_registry(tmp_path: Path) -> None:
    copy = tmp_path / "Tiny-Copy.gguf"
    shutil.copy(tiny_model(), copy)
    first = ModelLibrary(tmp_path).add(copy)
    assert first.entry.name == "tiny-copy"
    assert [model.entry for model in ModelLibrary(tmp_path)] == [first.entry]
    assert ModelRegistry.from_json((tmp_path / "models.json").read_bytes())["tiny-copy"] == first.entry
    moved = tmp_path / "moved.gguf"
    copy.rename(moved)
    assert ModelLibrary(tmp_path).add(moved, "tiny-copy").path == moved


@pytest.mark.parametrize("name", ["Upper", "a/b", "-x", "x" * 65, "a b"])
def test_names_no_offer_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="names are lower-case"):
        ModelLibrary(tmp_path).add(tiny_model(), name)


@pytest.mark.parametrize("damage", ["registry", "paths", "lost"])
def test_a_damaged_register_is_a_clear_error(tmp_path: Path, damage: str) -> None:
    ModelLibrary(tmp_path).add(tiny_model(), "tiny")
    if damage == "lost":
        (tmp_path / library_module.PATHS_FILE).unlink()
    else:
        name = library_module.REGISTRY_FILE if damage == "registry" else library_module.PATHS_FILE
        (tmp_path / name).write_text("[1]")
    with pytest.raises(ConfigError, match=r"damaged|cannot be read"):
        ModelLibrary(tmp_path)


def test_verify_reads_the_file_again(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    shutil.copy(tiny_model(), path)
    library = ModelLibrary(tmp_path)
    library.add(path, "tiny")
    library.verify("tiny")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChangedFile, match="gguf_sha256"):
        library.verify("tiny")


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    shutil.copy(tiny_model(), path)
    monkeypatch.setattr("provider.models.files._SETTLED_NS", 0)
    reads: list[int] = []
    digest = FileDigests(tmp_path / "known.json").get(path, lambda done, _: reads.append(done))
    again = FileDigests(tmp_path / "known.json")
    assert again.get(path, lambda done, _: reads.append(done)) == digest
    assert len(reads) == 1
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    times = path.stat()
    path.write_bytes(changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ChangedFile, match="is another file than promised"):
        again.check(ModelFile(path, digest))
    assert len(reads) == 1


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    shutil.copy(tiny_model(), path)
    digests = FileDigests(tmp_path / "known.json")
    digests.get(path)
    assert not (tmp_path / "known.json").exists()


def test_damaged_memory_of_digests_is_forgotten(tmp_path: Path) -> None:
    for content in ("{", "[]", json.dumps({str(tiny_model()): 3}), json.dumps({str(tiny_model()): ["x"]})):
        (tmp_path / "known.json").write_text(content)
        assert FileDigests(tmp_path / "known.json").get(tiny_model()) == sha256_of(tiny_model())


def test_threads_are_shared_and_never_above_the_cores(tmp_path: Path) -> None:
    cores = usable_cores()
    assert engine_threads(999, 1) == cores
    assert engine_threads(None, 1) == max(1, cores - 1)
    assert engine_threads(None, 64) == 1
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    assert (usable_cores(tmp_path), usable_memory(tmp_path)) == (1, 1048576)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (usable_cores(tmp_path), usable_memory(tmp_path)) == (cores, usable_memory(tmp_path / "none"))


def test_the_command_line(tmp_path: Path) -> None:
    config = tmp_path / "provider.toml"
    config.write_text(CONFIG)

    def models(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clawmarket_cli", "models", *arguments, f"--config={config}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert "there are no models" in models("list").stdout
    assert models("add", str(tiny_model()), "--name", "tiny").returncode == 0
    assert str(tiny_model()) in models("list").stdout
    assert "tiny  as registered" in models("verify").stdout
    refused = models("add", str(tiny_model()), "--name", "smollm2-135m-instruct")
    assert refused.returncode == 1
    assert "gguf_sha256" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert models("remove", "tiny").returncode == 0
    assert "there is no model tiny" in models("remove", "tiny").stderr
