"""The build is complete, fits the EVM's limit, and is what protocol/abi/ says."""

from __future__ import annotations

import json

import pytest

from protocol.chain.abi import FOLDER, load_abi
from scripts.deployment.artifacts import BUILD, CONTRACTS, ROOT, Artifact, abi_text, load_build

MAX_RUNTIME = 24_000


@pytest.fixture(scope="module")
def artifacts() -> dict[str, Artifact]:
    return load_build()


def test_build__every_source__has_its_contract() -> None:
    """Ape drops contracts silently when a folder holds too many files."""
    sources = {path.stem for path in (ROOT / "contracts").iterdir() if path.suffix in (".vy", ".sol")}
    assert sources == set(CONTRACTS)
    types = json.loads(BUILD.read_bytes())["contractTypes"]
    mocks = {path.stem for path in (ROOT / "contracts" / "mocks").glob("*.vy") if path.stem[0].isupper()}
    assert set(CONTRACTS) | mocks <= set(types)


@pytest.mark.parametrize("name", CONTRACTS)
def test_build__every_runtime__is_small_enough(artifacts: dict[str, Artifact], name: str) -> None:
    size = len(artifacts[name].runtime)
    assert 0 < size <= MAX_RUNTIME


@pytest.mark.parametrize("name", CONTRACTS)
def test_abi__exported__matches_the_build(artifacts: dict[str, Artifact], name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == abi_text(artifacts[name]), "run `make abi`"
    assert load_abi(name).entries == artifacts[name].abi


def test_abi__folder__holds_nothing_else() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*")) == sorted(CONTRACTS)
