"""docs/contracts.md against the code: every row of a state table has a test, every event and parameter is described."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from protocol.chain.abi import FOLDER as ABI_FOLDER

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "contracts.md"
TESTS = Path(__file__).parent / "ape"
COLUMNS = ["id", "state", "call", "caller", "guard", "deadline", "effect or default"]
TABLES = {"L": "Lease", "K": "Node key", "H": "Held bucket", "S": "Stake", "F": "Freeze and pot"}


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of all rows of all state tables, by id."""
    rows: dict[str, list[str]] = {}
    in_table = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells == COLUMNS:
            in_table = True
        elif not line.startswith("|"):
            in_table = False
        elif in_table and not set(line) <= set("|-"):
            assert cells[0] not in rows, f"two rows {cells[0]}"
            rows[cells[0]] = cells
    return rows


def ids_in_tests(sources: dict[str, str]) -> dict[str, list[str]]:
    """Test functions by the row they are marked with."""
    found: dict[str, list[str]] = {}
    for file, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.state_row":
                        for argument in decorator.args:
                            found.setdefault(ast.literal_eval(argument), []).append(f"{file}::{node.name}")
    return found


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    return rows_of(DOCUMENT.read_text())


@pytest.fixture(scope="module")
def tested() -> dict[str, list[str]]:
    return ids_in_tests({path.name: path.read_text() for path in TESTS.glob("test_*.py")})


def test_state_tables__every_row__has_a_test(rows: dict[str, list[str]], tested: dict[str, list[str]]) -> None:
    assert sorted(set(rows) - set(tested)) == []


def test_state_tables__every_marked_test__names_a_row(rows: dict[str, list[str]], tested: dict[str, list[str]]) -> None:
    assert {row: tested[row] for row in set(tested) - set(rows)} == {}


def test_state_tables__ids__count_up_within_each_table(rows: dict[str, list[str]]) -> None:
    for letter in TABLES:
        numbers = [int(row[1:]) for row in rows if row[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))
        assert numbers
    assert {row[0] for row in rows} == set(TABLES)


def test_state_tables__cells__are_complete(rows: dict[str, list[str]]) -> None:
    for cells in rows.values():
        assert len(cells) == len(COLUMNS)
        assert cells[1]
        assert cells[2]
        assert cells[-1]


def test_rows_of__a_table_and_a_marked_test__are_found() -> None:
    text = "| " + " | ".join(COLUMNS) + " |\n|---|\n| X1 | a | b | c | d | e | f |\n\n| X2 |"
    assert list(rows_of(text)) == ["X1"]
    source = "@pytest.mark.state_row('X1', 'X3')\ndef test_a(): ...\n\ndef test_b(): ..."
    assert ids_in_tests({"t.py": source}) == {"X1": ["t.py::test_a"], "X3": ["t.py::test_a"]}


def test_events__of_every_abi__are_in_the_document() -> None:
    written = set(re.findall(r"^\| (\w+) \| `(\w+)` \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE))
    expected = set()
    for name in ("LeaseEscrow", "Registry", "Staking", "Params", "UsageAnchor", "ClawToken"):
        for entry in json.loads((ABI_FOLDER / f"{name}.json").read_text()):
            if entry["type"] == "event":
                fields = [field["name"] + (" *i*" if field["indexed"] else "") for field in entry["inputs"]]
                expected.add((name, entry["name"], ", ".join(fields)))
    assert written == expected
