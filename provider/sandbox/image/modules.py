"""Which of this project's modules a program imports, read from their source without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_PACKAGES = ("protocol", "provider")


def module_files(*names: str) -> dict[str, Path]:
    """The named modules and all they import from this project, as paths relative to its root."""
    found: dict[str, Path] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        path = _file_of(name)
        if path is None or str(path.relative_to(ROOT)) in found:
            continue
        found[str(path.relative_to(ROOT))] = path
        pending += [name.rpartition(".")[0]] if "." in name else []
        pending += _imports(ast.parse(path.read_bytes()))
    return dict(sorted(found.items()))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Names that may be modules; imports for type checkers alone don't count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imports(node)


def _file_of(name: str) -> Path | None:
    if name.partition(".")[0] not in _PACKAGES:
        return None
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None
