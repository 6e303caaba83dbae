"""What a benchmark hands back, and how it is printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

Figure = int | float | str | bool


@dataclass(frozen=True)
class Report:
    """A table for people and `figures` for programs: flat, with the unit in each key (`vouchers_per_s`)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Figure]]
    figures: Mapping[str, Figure]
    notes: Sequence[str] = ()

    def show(self, name: str) -> None:
        """Print the table, the notes, and as last line one JSON object."""
        table = Table(title=name, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*(_text(value) for value in row))
        console = Console(soft_wrap=True)
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)
        print(json.dumps({"bench": name, **self.figures}))


def _text(value: Figure) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
