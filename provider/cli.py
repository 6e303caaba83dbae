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

ConfigOption = Annotated[Path, typer.Option("--config", help="The worker's TOML file.")]
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
    password_file: PasswordFileOption = None,
) -> None:
    """Create keys, stake, register, publish an offer, write the configuration. Run it again to go on after a fault."""
    from provider.enrolment import EnrolmentPlan, enrol

    try:
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        plan = EnrolmentPlan(folder, rpc, deployment, model, model_name, owner, price_in, price_out, stake)
        result = enrol(plan, password, report=typer.echo)
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"provider {result.provider}, offer {result.offer_id} version {result.version}")
    typer.echo(f"next: send some ether for transactions to {result.operator}, then")
    typer.echo(f"      clawmarket provider run --config {result.config}")
