"""`clawmarket gateway status`: offers, routes and their health, leases, budgets and requests, as tables."""

from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

SHOWN_REQUESTS = 10


def status_tables(status: dict[str, Any]) -> RenderableType:
    """What `/gateway/status` says."""
    return Group(
        _offers(status.get("offers", [])),
        _routes(status.get("routes", {})),
        _leases(status.get("leases", [])),
        _budgets(status.get("budgets", [])),
        _requests(status["requests"]),
    )


def _routes(routes: dict[str, dict[str, Any]]) -> Table:
    table = _table("Routes", "route", "first token", "tokens/s", "success", "trust", "last error")
    for name, health in routes.items():
        errors = health.get("errors") or []
        table.add_row(
            name,
            f"{health['ttft_ms']} ms",
            str(health["tokens_per_s"]),
            f"{health['success']:.0%}",
            f"{health['trust']:.0%}",
            errors[-1]["error"] if errors else "",
        )
    return table


def _offers(offers: list[dict[str, Any]]) -> Table:
    table = _table("Offers", "offer", "model by provider", "sandbox", "tier", "region", "at")
    for offer in offers:
        table.add_row(
            str(offer["offer"]), offer["name"], offer["sandbox"], offer["tier"], offer["region"], offer["endpoint"]
        )
    return table


def _leases(leases: list[dict[str, Any]]) -> Table:
    table = _table("Leases (base units)", "lease", "model", "provider", "stage", "deposit", "owed", "room", "until")
    for lease in leases:
        table.add_row(
            lease["lease"][:18],
            lease["model"],
            str(lease["provider"]),
            lease["stage"],
            *(str(lease[name]) for name in ("deposit", "owed", "room")),
            _time(lease["expiry"]),
        )
    return table


def _budgets(budgets: list[dict[str, Any]]) -> Table:
    table = _table("Budgets (spent and held in base units)", "budget", "per", "limit", "spent", "held")
    for budget in budgets:
        whose = " ".join(part for part in (budget["scope"], budget["name"]) if part)
        table.add_row(whose, budget["period"], budget["limit"], str(budget["spent"]), str(budget["held"]))
    return table


def _requests(requests: dict[str, Any]) -> Table:
    title = f"Requests ({requests['running']} running)"
    table = _table(title, "time", "model", "route", "ended", "tokens", "first", "cost")
    for request in requests["recent"][:SHOWN_REQUESTS]:
        table.add_row(
            _time(request["at"]),
            request["model"],
            request["route"],
            request["ended"],
            str(request["tokens"]),
            f"{request['ttft_ms']} ms",
            request["cost"],
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left", expand=True)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%d %b %H:%M:%S")
