"""Runs one benchmark by name, or lists them: `python -m scripts.bench [name]`."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NOT_BENCHES = {"__init__", "__main__", "report"}


def benches() -> dict[str, str]:
    """The first line of each benchmark's docstring, by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem not in NOT_BENCHES and not path.stem.startswith("_"):
            found[path.stem] = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    return found


def main(arguments: list[str]) -> int:
    known = benches()
    if len(arguments) == 1 and arguments[0] in known:
        importlib.import_module(f"scripts.bench.{arguments[0]}").run().show(arguments[0])
        return 0
    if arguments:
        print(f"there is no benchmark {' '.join(arguments)}", file=sys.stderr)
    print("make bench BENCH=name, where name is one of:")
    for name, summary in known.items():
        print(f"  {name:<16} {summary}")
    return 2 if arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
