"""`clawmarket provider …`"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from protocol.exceptions import ProtocolError
from protocol.keystore import find_password
from provider.engine.errors import EngineError
from provider.exceptions import ProviderError

PASSWORD_VARIABLE = "CLAWMARKET_PASSWORD"  # noqa: S105 - the variable's name
app = typer.Typer(help="Rent out this machine's models.", no_args_is_help=True)

ConfigOption = Annotated[Path, typer.Option("--config", envvar="CLAWMARKET_PROVIDER", help="The worker's TOML file.")]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", help="File with the keystores' password.")]


@app.command()
def run(config: ConfigOption, password_file: PasswordFileOption = None) -> None:
    """Serve, anchor and settle until interrupted."""
    from provider.config import load_config
    from provider.worker import Worker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        Worker(load_config(config), password).run()
    except (ProviderError, ProtocolError, EngineError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="New folder for configuration, keys and data.")],
    rpc: Annotated[str, typer.Option(help="RPC address of the chain.")],
    deployment: Annotated[Path, typer.Option(help="The deployment file.")],
    model: Annotated[Path, typer.Option(help="GGUF file to serve.")],
    model_name: Annotated[str, typer.Option(help="Name under which clients ask for it, e.g. smollm2-135m-instruct.")],
    owner: Annotated[Path, typer.Option(help="Keystore of the owner, who stakes and registers.")],
    price_in: Annotated[str, typer.Option(help="Price of input, e.g. '0.01 USDC per 1K tokens'.")],
    price_out: Annotated[str, typer.Option(help="Price of output.")],
    stake: Annotated[str, typer.Option(help="CLAW to stake.")] = "10000",
    port: Annotated[int, typer.Option(help="Port to serve on.", min=0, max=65535)] = 8080,
    password_file: PasswordFileOption = None,
) -> None:
    """Create keys, stake, register, publish an offer, write the configuration. Run it again to go on after a fault."""
    from provider.enrolment import EnrolmentPlan, enrol

    try:
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        plan = EnrolmentPlan(folder, rpc, deployment, model, model_name, owner, price_in, price_out, stake, port)
        result = enrol(plan, password, report=typer.echo)
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"provider {result.provider}, offer {result.offer_id} version {result.version}")
    typer.echo(f"next: send some ether for transactions to {result.operator}, then")
    typer.echo(f"      clawmarket provider run --config {result.config}")


@app.command()
def earnings(config: ConfigOption) -> None:
    """Show what is held as the bond, what has matured, and what is in the owner's account."""
    from provider import payout
    from provider.config import load_config

    try:
        for found in payout.earnings(load_config(config)):
            typer.echo(str(found))
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def withdraw(
    config: ConfigOption,
    owner: Annotated[Path, typer.Option(help="Keystore of the owner.")],
    to: Annotated[str | None, typer.Option(help="Who receives it; by default the owner.")] = None,
    password_file: PasswordFileOption = None,
) -> None:
    """Collect matured earnings and pay out all that is in the owner's account."""
    from protocol.address import to_address
    from provider import payout
    from provider.config import load_config

    try:
        receiver = to_address(to, "to") if to else None
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        paid = payout.withdraw(load_config(config), owner, password, receiver)
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for money in paid:
        typer.echo(f"withdrew {money}")
    if not paid:
        typer.echo("nothing has matured yet; `clawmarket provider earnings` shows what is held")


@app.command()
def rotate_key(
    config: ConfigOption,
    owner: Annotated[Path, typer.Option(help="Keystore of the owner.")],
    password_file: PasswordFileOption = None,
) -> None:
    """Replace the node key, on chain and on disk. Stop the worker first, start it again afterwards."""
    from provider import key_rotation
    from provider.config import load_config

    try:
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        address = key_rotation.rotate(load_config(config), owner, password)
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"the node key is now {address}; the old one can never be used again")
