"""The rules the protocol package itself lives by."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from protocol import exceptions

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "protocol").glob("*.py"))
PURE = [
    "address",
    "canonical",
    "documents",
    "exceptions",
    "hashing",
    "headers",
    "ids",
    "merkle",
    "models",
    "money",
    "signing",
    "typed_data",
]
IMPURE = {
    "asyncio",
    "httpx",
    "io",
    "os",
    "random",
    "requests",
    "secrets",
    "socket",
    "subprocess",
    "time",
    "urllib.request",
}
OUTER = {"ape", "boa", "consumer", "indexer", "provider", "scripts", "tests", "vyper", "web3"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_module__imports_nothing_outer(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imported(path)} & OUTER


@pytest.mark.parametrize("name", PURE)
def test_pure_module__does_no_input_or_output(name: str) -> None:
    path = ROOT / "protocol" / f"{name}.py"
    names = imported(path)
    assert not names & IMPURE
    assert {module for module in names if module.startswith("protocol.")} <= {f"protocol.{other}" for other in PURE}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in {"open", "print", "input"}]


def test_schemas__are_read_from_any_working_directory(tmp_path: Path) -> None:
    code = (
        "import json; from protocol.documents import DocumentType, schema; "
        "print(json.dumps([schema(kind)['title'] for kind in DocumentType]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(result.stdout) == [
        "Terms of an offer",
        "Metadata of a provider",
        "Signed envelope",
        "Model registry",
    ]


def test_exceptions__all_derive_from_one_and_are_in_the_tree() -> None:
    classes = [
        kind for kind in vars(exceptions).values() if isinstance(kind, type) and kind.__module__ == exceptions.__name__
    ]
    assert len(classes) >= 9
    assert all(issubclass(kind, exceptions.ProtocolError) for kind in classes)
    assert exceptions.__doc__ is not None
    assert all(kind.__name__ in exceptions.__doc__ for kind in classes)
