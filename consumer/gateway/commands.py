"""`clawmarket gateway …`: Brain Switch, the local OpenAI-compatible endpoint."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from consumer.cli import PASSWORD_VARIABLE, ConfigOption, PasswordFileOption
from consumer.client import GatewayError
from consumer.config import ConsumerConfig
from consumer.exceptions import ConsumerError
from consumer.gateway.commands_access import AccessOption, client_of, greeting, key_file, make_own_key
from consumer.gateway.commands_chat import chat
from consumer.gateway.explain import explain_table
from consumer.gateway.status_table import status_tables
from consumer.setup import SetupPlan, set_up
from consumer.spending.commands import app as spending_app
from protocol.exceptions import ProtocolError
from protocol.keystore import find_password

PERIOD_S = 1.0
app = typer.Typer(help="A local OpenAI-compatible endpoint over all routes to a model.", no_args_is_help=True)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ConsumerError, ProtocolError, GatewayError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="New folder for configuration, keys and records.")],
    rpc: Annotated[str, typer.Option(help="RPC address of the chain.")],
    deployment: Annotated[Path, typer.Option(help="The deployment file.")],
    provider: Annotated[list[str] | None, typer.Option(help="Address of a provider; once each.")] = None,
    tokenizer: Annotated[list[Path] | None, typer.Option(help="GGUF file of a model to buy; once each.")] = None,
    owner: Annotated[Path | None, typer.Option(help="Keystore of the owner; by default a new key.")] = None,
    password_file: PasswordFileOption = None,
) -> None:
    """Write the configuration, make the owner's key if there is none, and a first API key."""
    with _errors():
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        plan = SetupPlan(
            folder,
            rpc,
            deployment,
            owner=owner,
            tokenizers=tuple(tokenizer or ()),
            providers=tuple(provider or ()),
            accepts_unverified=False,
        )
        done = set_up(plan, password)
        config = ConsumerConfig.load(done.config)
        make_own_key(config)
    typer.echo(f"wrote {done.config}; the owner is {done.owner}")
    typer.echo(f"a first API key is in {key_file(config)}; `clawmarket gateway keys new NAME` makes others")
    typer.echo("next:")
    if not tokenizer:
        typer.echo("  add the GGUF files of the models you buy as `tokenizers`: without them nothing can be counted")
    if not provider:
        typer.echo("  add addresses of providers as `providers`")
    typer.echo(f"  export CLAWMARKET_CONSUMER={done.config}")
    typer.echo("  clawmarket consumer deposit '10 USDC'")
    typer.echo("  clawmarket gateway run")


@app.command()
def run(config: ConfigOption, password_file: PasswordFileOption = None) -> None:
    """Serve until it is told to stop."""
    from consumer.gateway.server import run as serve
    from consumer.session import Session

    with _errors():
        loaded = ConsumerConfig.load(config)
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        session = Session(loaded, password)
        try:
            serve(session, loaded, lambda url: typer.echo(greeting(url, key_file(loaded))))
        finally:
            session.close()


@app.command()
def status(
    config: AccessOption = None,
    watch: Annotated[
        bool | None, typer.Option("--watch/--once", help="Refresh every second; by default on a terminal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON, once.")] = False,  # noqa: FBT002
) -> None:
    """Show routes, leases, budgets and the last requests of the running gateway."""
    console = Console()
    with _errors(), client_of(config) as client:
        if as_json:
            console.print_json(data=client.status())
        elif watch or (watch is None and console.is_terminal):
            with Live(status_tables(client.status()), console=console, auto_refresh=False, screen=True) as live:
                try:
                    while True:
                        time.sleep(PERIOD_S)
                        live.update(status_tables(client.status()), refresh=True)
                except KeyboardInterrupt:
                    return
        else:
            console.print(status_tables(client.status()))


@app.command()
def explain(
    config: AccessOption = None,
    model: Annotated[str, typer.Argument(help="A name as applications write it.")] = "auto",
) -> None:
    """Show which routes a model's name would take, in order, and why others are left out."""
    with _errors(), client_of(config) as client:
        Console().print(explain_table(client.explain("Hello", model)))


app.command(name="chat")(chat)
app.add_typer(spending_app)
