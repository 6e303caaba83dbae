"""`clawmarket gateway keys|budget|leases|receipts|audit`: who spent what, from a gateway's data folder."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from consumer.cli import PASSWORD_VARIABLE, ConfigOption, LeaseOption, PasswordFileOption
from consumer.config import ConsumerConfig
from consumer.exceptions import ConsumerError, StoreInUse
from consumer.session import Session
from consumer.spending.allowance import Allowance
from consumer.spending.api_keys import ApiKey
from consumer.spending.auditing import WRONG, Auditor, Verdict, requests_of
from consumer.spending.budgets import DAY_S, Figure
from consumer.spending.file import GatewayFile
from consumer.spending.lease_notes import LeaseNote, LeaseNotes, Stage
from consumer.spending.offline import DataFolder, now, open_keys
from consumer.spending.running import FILE_NAME
from protocol.chain.views import Lease
from protocol.exceptions import ProtocolError
from protocol.keystore import find_password
from protocol.money import Money

app = typer.Typer(help="Who may spend how much, and what became of it.", no_args_is_help=True)
keys_app = typer.Typer(help="Virtual API keys for applications and teammates.", no_args_is_help=True)
leases_app = typer.Typer(help="The leases that the gateway holds.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(leases_app, name="leases")


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ConsumerError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@contextmanager
def _folder(config: Path) -> Iterator[DataFolder]:
    with _errors(), DataFolder(config) as found:
        yield found


@keys_app.command(name="new")
def new_key(
    config: ConfigOption,
    name: Annotated[str, typer.Argument(help="Who gets it.")],
    per_day: Annotated[list[str] | None, typer.Option(help="At most this a day, e.g. '1 USDC'; once a token.")] = None,
    total: Annotated[list[str] | None, typer.Option(help="At most this in all.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these models, by registry name.")] = None,
    days: Annotated[float | None, typer.Option(min=0.01, help="How long it is valid; by default without end.")] = None,
) -> None:
    """Make a key. It is shown now and never again."""
    with _errors():
        try:
            day, whole = Allowance.parse(per_day or ()), Allowance.parse(total or ())
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        expires = now() + int(days * DAY_S) if days else None
        keys = open_keys(ConsumerConfig.load(config))
        key, text = keys.make(name, per_day=day, total=whole, models=tuple(model or ()), expires=expires)
        typer.echo(f"key {key.key_id} for {name}; keep it, it is not shown again:", err=True)
        typer.echo(text)


@keys_app.command(name="list")
def list_keys(config: ConfigOption) -> None:
    """List all keys."""
    with _errors():
        table = _table("id", "name", "per day", "total", "models", "valid until")
        for key in open_keys(ConsumerConfig.load(config)).list():
            table.add_row(
                key.key_id,
                key.name,
                *(", ".join(allowance.as_list()) or "-" for allowance in (key.per_day, key.total)),
                ", ".join(key.models) or "all",
                _validity(key),
            )
        Console().print(table)


@keys_app.command()
def revoke(config: ConfigOption, key: Annotated[str, typer.Argument(help="Its name or id.")]) -> None:
    """End a key at once; a running gateway refuses its next request."""
    with _errors():
        ended = open_keys(ConsumerConfig.load(config)).revoke(key)
        typer.echo(f"the key {ended.key_id} of {ended.name} is revoked")


@app.command()
def budget(config: ConfigOption) -> None:
    """Show each budget and what is spent of it."""
    with _folder(config) as folder:
        table = _table("budget", "per", "limit", "spent")
        for figure in folder.budgets().figures():
            spent = Money(figure.spent, figure.limit.token)
            table.add_row(_whose(figure, folder), figure.period, str(figure.limit), str(spent))
        Console().print(table)


@leases_app.command(name="list")
def list_leases(config: ConfigOption) -> None:
    """List leases that are not released."""
    with _folder(config) as folder:
        table = _table("lease", "model", "provider", "stage", "deposit", "owed", "room", "until")
        for figure in folder.leases():
            record = figure.record
            table.add_row(
                f"0x{record.lease_id.hex()[:16]}",
                record.model,
                str(record.provider),
                figure.stage,
                *(folder.money(units, record) for units in (figure.deposit, figure.owed, max(0, figure.room))),
                _time(record.expiry),
            )
        Console().print(table)


@leases_app.command()
def close(config: ConfigOption, lease: LeaseOption = "", password_file: PasswordFileOption = None) -> None:
    """Ask for the end of a lease; once its close delay has passed, `release` returns the rest."""
    _end(config, lease, password_file, "close")


@leases_app.command()
def release(config: ConfigOption, lease: LeaseOption = "", password_file: PasswordFileOption = None) -> None:
    """Return what a closed lease did not use to the account."""
    _end(config, lease, password_file, "release")


@app.command()
def receipts(config: ConfigOption) -> None:
    """List what was answered and paid."""
    with _folder(config) as folder:
        table = _table("time", "lease", "request", "model", "prompt", "answer", "cost", "state")
        for request in requests_of(folder.store):
            message = request.receipt.message if request.receipt else None
            table.add_row(
                _time(message.ended_at) if message else "-",
                f"0x{request.lease.lease_id.hex()[:16]}",
                str(request.seq),
                request.lease.model,
                str(message.units_in + message.units_cached) if message else "-",
                str(message.units_out) if message else "-",
                folder.money(message.cost, request.lease) if message else "-",
                request.state,
            )
        Console().print(table)


@app.command()
def audit(config: ConfigOption) -> None:
    """Prove each receipt against the roots that providers anchored on chain; exit code 1 if one is missing or wrong."""
    with _folder(config) as folder:
        auditor = Auditor(folder.client, folder.domain, lambda: folder.client.head().timestamp)
        found = Counter[Verdict]()
        for finding in auditor.audit(requests_of(folder.store)):
            found[finding.verdict] += 1
            if finding.verdict is not Verdict.PROVED:
                lease = finding.audited.lease.lease_id.hex()
                typer.echo(f"{finding.verdict}: request {finding.audited.seq} of lease 0x{lease}: {finding.reason}")
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items()))
        typer.echo(f"{found.total()} requests: {counts}" if found else "no requests")
    if WRONG & found.keys():
        raise typer.Exit(1)


def _end(config: Path, start: str, password_file: Path | None, deed: str) -> None:
    with _errors():
        settings = ConsumerConfig.load(config)
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        try:
            session = Session(settings, password)
        except StoreInUse as error:
            raise StoreInUse(
                "the gateway is running: it ends its leases by itself; stop it first to do so here"
            ) from error
        try:
            record = session.find_lease(start)
            with GatewayFile(settings.data / FILE_NAME) as file, session.sender() as sender:
                act: Callable[..., object] = getattr(session.leases, deed)
                act(sender, record.lease_id)
                state = session.client.lease(record.lease_id)
                notes = LeaseNotes(file)
                stage = Stage.RELEASED if state.is_released else Stage.CLOSING
                notes.keep(record.lease_id, LeaseNote(state.deposit, stage))
            typer.echo(_ended(record.lease_id, state))
        finally:
            session.close()


def _ended(lease_id: bytes, state: Lease) -> str:
    if state.is_released:
        return f"lease 0x{lease_id.hex()} is released"
    return f"lease 0x{lease_id.hex()} closes at {_time(state.closes_at)}"


def _whose(figure: Figure, folder: DataFolder) -> str:
    if figure.scope.kind == "key":
        key = folder.keys.find(figure.scope.name)
        return f"key {key.name if key else figure.scope.name}"
    return f"model {figure.scope.name}" if figure.scope.kind == "model" else "all"


def _validity(key: ApiKey) -> str:
    if key.is_revoked:
        return "revoked"
    if key.expires is None:
        return "no end"
    return "expired" if now() >= key.expires else _time(key.expires)


def _time(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
