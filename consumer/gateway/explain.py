"""Which routes a request would take and why, as a table."""

from typing import Any

from rich.table import Table


def explain_table(explained: dict[str, Any]) -> Table:
    """What `/gateway/explain` says: routes in the order in which they are tried, then those left out."""
    table = Table(
        "", "route", "kind", "sandbox", "score", "why", title=f"Routes for {explained['model']}", title_justify="left"
    )
    table.columns[5].overflow = "fold"
    for number, route in enumerate(explained["routes"], 1):
        why = ", ".join(f"{name} {value}" for name, value in route["why"].items())
        table.add_row(str(number), route["name"], route["kind"], route.get("sandbox", ""), str(route["score"]), why)
    for route in explained["excluded"]:
        table.add_row(
            "-", route["name"], route["kind"], route.get("sandbox", ""), "", "; ".join(route["reasons"]), style="dim"
        )
    return table
