"""What the person before the screen sees."""

import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from protocol.money import USDC, Money


class Screen:
    """Prints what happens and when."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def note(self, who: str, what: str) -> None:
        """One line."""
        self.console.print(
            f"[dim]{self.elapsed_s:6.1f} s[/dim]  [bold cyan]{who:<10}[/bold cyan] {escape(what)}", soft_wrap=True
        )

    def plain(self, text: str = "", style: str = "", end: str = "\n") -> None:
        """Text as it is, never wrapped."""
        self.console.print(escape(text), style=style, end=end, soft_wrap=True)


def table(title: str, first: str, *figures: str) -> Table:
    """A table of names with figures."""
    found = Table(title=title, title_justify="left")
    found.add_column(first)
    for heading in figures:
        found.add_column(heading, justify="right")
    return found


def usdc(units: int) -> str:
    """An amount as people write it."""
    return str(Money(units, USDC))
