"""The suite's findings as tables in docs/sandbox.md. `python -m tests.sandbox.escape.report` writes them anew."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

from provider.sandbox.tiers import Tier
from tests.sandbox.escape.attempt import ATTEMPTS
from tests.sandbox.escape.findings import ABSENT, Findings, find
from tests.support.sandbox import running_sandbox

DOCS = Path(__file__).resolve().parents[3] / "docs/sandbox.md"
BEGIN, END = "<!-- escape suite: begin -->\n", "<!-- escape suite: end -->\n"


def tables(found: Findings) -> str:
    """One table for each tier."""
    return "\n".join(_table(tier, found) for tier in found.outcomes)


def written() -> str:
    """What the documentation holds between the markers."""
    return DOCS.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write(text: str) -> None:
    """Puts it there."""
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}", encoding="utf-8")


def _table(tier: Tier, found: Findings) -> str:
    outcomes = found.outcomes[tier]
    names = defaultdict(list)
    for name, each in ATTEMPTS.items():
        names[each.kind].append(name)
    escaped = sum(each.succeeded for each in outcomes.values())
    lines = [
        f"**`{tier}`**: {len(outcomes)} attempts, {escaped} succeeded",
        "",
        "| class | attempts | blocked by | controls that succeed without |",
        "|---|---|---|---|",
    ]
    for kind in sorted(names):
        met: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names[kind]):
            met[_blocked(outcomes[name].error, name)].append(name)
        blocked = "; ".join(f"{what}: {', '.join(which)}" for what, which in sorted(met.items()))
        counted = Counter(ABSENT if name in found.absent else ATTEMPTS[name].control for name in names[kind])
        controls = "; ".join(f"{what} ({count})" for what, count in sorted(counted.items()))
        lines.append(f"| {kind} | {len(names[kind])} | {blocked} | {controls} |")
    return "\n".join(lines) + "\n"


def _blocked(error: str, name: str) -> str:
    if ATTEMPTS[name].alone:
        return "a limit"  # whether an error or the container's end comes first is chance
    if ATTEMPTS[name].kind == "frames":
        return "the worker's checks"
    return {"nothing came of it": "no effect on the host"}.get(error, error)


def main() -> None:
    """Runs the suite and writes the tables."""
    with running_sandbox() as sandbox:
        found = find(sandbox)
    write(tables(found))
    print(found.seconds, file=sys.stderr)


if __name__ == "__main__":
    main()
