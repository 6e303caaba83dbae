"""`clawmarket provider status`: from the running worker, else from the ledger and the chain."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from provider.commands.common import ConfigOption, errors

if TYPE_CHECKING:
    from rich.console import RenderableType

    from provider.config import Config
    from provider.observing.status import Status

app = typer.Typer()
PERIOD_S = 2.0


@app.command()
def status(
    config: ConfigOption,
    watch: Annotated[
        bool | None, typer.Option("--watch/--once", help="Refresh every two seconds; by default on a terminal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON, once.")] = False,  # noqa: FBT002
) -> None:
    """Show models, traffic, earnings, stake, offers, and what needs looking after.

    Exit code 0 when nothing does, 3 with alerts, 1 on errors.
    """
    import sys

    from rich.console import Console
    from rich.live import Live

    from provider.config import load_config

    with errors():
        loaded = load_config(config)
        if as_json:
            found = read_status(loaded)
            typer.echo(found.model_dump_json(indent=2))
        elif watch is True or (watch is None and sys.stdout.isatty()):
            with Live(auto_refresh=False, console=Console()) as live:
                try:
                    while True:
                        live.update(table(read_status(loaded)), refresh=True)
                        time.sleep(PERIOD_S)
                except KeyboardInterrupt:
                    return
        else:
            found = read_status(loaded)
            Console(soft_wrap=True).print(table(found))
    raise typer.Exit(3 if found.alerts else 0)


def read_status(config: "Config") -> "Status":
    """From the worker's operations listener, else put together here. Raises ConfigError."""
    import httpx
    from pydantic import ValidationError

    from provider.observing.operations import address_of
    from provider.observing.status import Status

    address = address_of(config.provider.data)
    if address is not None:
        try:
            answer = httpx.get(f"{address}/status", timeout=20, trust_env=False)
            answer.raise_for_status()
            found = Status.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError):
            pass
        else:
            if found.provider == config.provider.id:
                return found
    return _without_worker(config)


def _without_worker(config: "Config") -> "Status":
    from protocol import keystore
    from protocol.chain import deployments
    from protocol.chain.client import ChainClient
    from protocol.chain.exceptions import ChainError
    from protocol.typed_data import Domain
    from provider import metadata
    from provider.backup import LEDGER_FILE, OFFERS_FOLDER
    from provider.exceptions import LedgerError
    from provider.observing.chain_figures import lease_tokens, read_chain
    from provider.observing.ledger_figures import read_ledger
    from provider.observing.observer import assemble
    from provider.observing.status import ledger_status, only_token
    from provider.offers import OfferBook

    data = config.provider.data
    deployment = deployments.load_file(config.chain.deployment)
    offers = OfferBook(data / OFFERS_FOLDER).all()
    domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
    try:
        figures = read_ledger(data / LEDGER_FILE) if (data / LEDGER_FILE).exists() else None
    except LedgerError:
        figures = None
    chain, fault, token_of = None, "", {}
    with ChainClient(config.chain.rpc, deployment) as client:
        try:
            chain = read_chain(client, config.provider.id, keystore.address(config.provider.operator_key))
            if figures and not only_token(offers):
                token_of = lease_tokens(client, [account.lease_id for account in figures.accounts])
        except ChainError as error:
            fault = str(error)
    now = max(int(time.time()), chain.time if chain else 0)
    return assemble(
        config,
        now=now,
        offers=offers,
        chain=chain,
        chain_fault=fault,
        figures=figures,
        ledger=ledger_status(figures, now) if figures else None,
        worker=None,
        known=metadata.load(config, domain),
        token_of=token_of,
    )


def table(found: "Status") -> "RenderableType":
    """Everything, for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(_headline(found), style="bold")]
    parts += [_traffic(found), _money(found), _chain(found)]
    if found.alerts:
        parts.append(Text("to look after", style="bold red"))
        parts += [Text(f"  {alert.what}\n    → {alert.do}") for alert in found.alerts]
    else:
        parts.append(Text("nothing to look after", style="green"))
    return Group(*parts)


def _headline(found: "Status") -> str:
    from provider.commands.shown import show_span

    worker = found.worker
    if worker is None:
        return f"provider {found.provider}: the worker does not run; figures of ledger and chain"
    state = "ready" if not worker.reasons else "not ready"
    gate = f", gate closed: {worker.gate}" if worker.gate else ""
    tick = f", last tick {show_span(max(0, int(time.time()) - worker.tick_at))} ago" if worker.tick_at else ""
    return (
        f"provider {found.provider}: {state}{gate}, sandbox {worker.sandbox}, "
        f"up {show_span(max(0, int(time.time()) - worker.started_at))}{tick}"
    )


def _traffic(found: "Status") -> "RenderableType":
    from rich.table import Table

    shown = Table(title="models", title_justify="left", box=None, pad_edge=False)
    for name in ("model", "running", "requests", "failed", "in", "cached", "out", "tokens/s"):
        shown.add_column(name, justify="left" if name == "model" else "right")
    worker = found.worker
    for model in worker.models if worker else ():
        figures = (model.running, model.requests, model.failed, model.units_in, model.units_cached, model.units_out)
        shown.add_row(model.name, *map(str, figures), f"{model.tokens_per_s:.1f}")
    if worker:
        shown.caption = f"queue {worker.queue}, refused {worker.refused}"
        shown.caption_justify = "left"
    return shown


def _money(found: "Status") -> "RenderableType":
    from rich.table import Table

    from provider.commands.shown import show_span, show_units

    shown = Table(title="earnings", title_justify="left", box=None, pad_edge=False)
    for name in ("", "unpaid", "to settle", "settled", "held", "matured", "in the account"):
        shown.add_column(name, justify="right")
    for money in found.money:
        units = (money.unpaid, money.unsettled, money.settled, money.held, money.free, money.account)
        cells = ["–" if amount is None else show_units(amount, money.symbol, money.decimals) for amount in units]
        shown.add_row(money.symbol, *cells)
    if found.ledger:
        ledger = found.ledger
        shown.caption = (
            f"{ledger.receipts} receipts, {ledger.anchored} anchored"
            f"{f', others wait for {show_span(ledger.unanchored_s)}' if ledger.unanchored_s else ''}"
            f"; settling lags by {show_span(ledger.settlement_lag_s)}"
        )
        shown.caption_justify = "left"
    return shown


def _chain(found: "Status") -> "RenderableType":
    from rich.table import Table

    from protocol.money import CLAW, Money
    from provider.commands.shown import show_time

    shown = Table(title="on chain", title_justify="left", box=None, pad_edge=False, show_header=False)
    shown.add_column()
    shown.add_column()
    if found.stake:
        cooling = ""
        if found.stake.cooling:
            cooling = f", {Money(found.stake.cooling, CLAW)} cool until {show_time(found.stake.cooling_until)}"
        shown.add_row("stake", f"{Money(found.stake.active, CLAW)}{cooling}")
        shown.add_row("operator", f"{found.operator_wei / 10**18:.6f} ether")
    for offer in found.offers:
        state = "open" if offer.is_open else "paused"
        shown.add_row(
            f"offer {offer.offer_id}",
            f"{offer.model}, version {offer.version}, {state}, sandbox {offer.sandbox or 'unknown'}, "
            f"{offer.active} of {offer.max_active} leases",
        )
    if found.chain_fault:
        shown.add_row("chain", f"cannot be read: {found.chain_fault}")
    return shown
