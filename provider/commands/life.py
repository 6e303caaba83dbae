"""A worker's life: init, run, publish, rotate-key, backup, restore, unit."""

from pathlib import Path
from typing import Annotated

import typer

from provider.commands.common import (
    ConfigOption,
    DevOption,
    OwnerOption,
    PasswordFileOption,
    YesOption,
    confirm,
    errors,
    password_of,
)

app = typer.Typer()


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
    url: Annotated[
        str, typer.Option(help="Public https address, e.g. https://203.0.113.7:8080; by default this machine only.")
    ] = "",
    password_file: PasswordFileOption = None,
    dev: DevOption = False,  # noqa: FBT002
) -> None:
    """Create keys, stake, register, publish an offer and the metadata. Run it again to go on after a fault."""
    from provider.config import load_config
    from provider.enrolment import EnrolmentPlan, enrol
    from provider.publishing import publish
    from provider.sandbox.serving import find_sandbox

    with errors():
        password = password_of(password_file)
        plan = EnrolmentPlan(folder, rpc, deployment, model, model_name, owner, price_in, price_out, stake, port, url)
        result = enrol(plan, password, find_sandbox(dev=dev), report=typer.echo)
        config = load_config(result.config)
        if config.serving.port:
            publish(config, owner, password, typer.echo)
    typer.echo(f"provider {result.provider}, offer {result.offer_id} version {result.version}")
    typer.echo(f"next: send some ether for transactions to {result.operator}, then")
    typer.echo(f"      clawmarket provider run --config {result.config}{' --dev-sandbox' if dev else ''}")


@app.command()
def run(config: ConfigOption, password_file: PasswordFileOption = None, dev: DevOption = False) -> None:  # noqa: FBT002
    """Serve, anchor and settle until interrupted."""
    from provider.config import load_config
    from provider.observing.logs import set_up_logging
    from provider.sandbox.serving import open_sandbox
    from provider.worker import Worker

    set_up_logging()
    with errors():
        loaded, password = load_config(config), password_of(password_file)
        Worker(loaded, password, open_sandbox(dev=dev)).run()


@app.command("publish")
def publish_metadata(config: ConfigOption, owner: OwnerOption, password_file: PasswordFileOption = None) -> None:
    """Sign what the configuration says of the provider, and enter its digest in the registry.

    Needed after changes of [metadata], offers or keys. Restart the worker afterwards: it serves what it read then.
    """
    from provider.config import load_config
    from provider.publishing import publish

    with errors():
        publish(load_config(config), owner, password_of(password_file), typer.echo)


@app.command()
def rotate_key(config: ConfigOption, owner: OwnerOption, password_file: PasswordFileOption = None) -> None:
    """Replace the node key, on chain and on disk. Stop the worker first, start it again afterwards."""
    from provider import key_rotation
    from provider.config import load_config

    with errors():
        address = key_rotation.rotate(load_config(config), owner, password_of(password_file))
    typer.echo(f"the node key is now {address}; the old one can never be used again")
    typer.echo("next: `clawmarket provider publish`, since the node key signs the metadata")


@app.command("backup")
def make_backup(
    config: ConfigOption,
    file: Annotated[Path, typer.Argument(help="Where to write the archive.")],
    password_file: PasswordFileOption = None,
) -> None:
    """Archive ledger, keystores, offers and configuration; the worker may run. Keep it where thieves don't look.

    It serves again only as long as nothing newer is anchored: make one before every anchor with [backup] instead.
    """
    from protocol import keystore
    from provider.backup import backup
    from provider.config import load_config

    with errors():
        loaded = load_config(config)
        node = keystore.load(loaded.provider.node_key, password_of(password_file))
        written = backup(loaded, file.resolve(), node)
    typer.echo(f"wrote {written}, {written.stat().st_size / 2**20:.1f} MiB; the owner's keystore is not in it")


@app.command("restore")
def restore_backup(
    file: Annotated[Path, typer.Argument(help="The archive.")],
    folder: Annotated[Path, typer.Argument(help="New folder, or the one of an interrupted restore.")],
    owner: OwnerOption,
    password_file: PasswordFileOption = None,
    yes: YesOption = False,  # noqa: FBT002
) -> None:
    """Make a worker's folder from a backup: rotates the node key and ends older leases before anything is served."""
    from provider.restoring import restore

    confirm(
        "The old worker must never run again: its node key is replaced, and its leases end.\n"
        "If the chain has anchored receipts that the backup lacks, the folder will not serve.",
        yes=yes,
    )
    with errors():
        config = restore(file, folder, owner, password_of(password_file), typer.echo)
    typer.echo("next: `clawmarket provider publish`, then")
    typer.echo(f"      clawmarket provider run --config {config}")


@app.command()
def unit(
    config: ConfigOption,
    password_file: Annotated[Path, typer.Option(help="File with the keystores' password; systemd hands it over.")],
    user: Annotated[str, typer.Option(help="Account the worker runs as; it must own the configuration's folder.")],
    install: Annotated[bool, typer.Option("--install", help="Write it to /etc/systemd/system.")] = False,  # noqa: FBT002
    yes: YesOption = False,  # noqa: FBT002
) -> None:
    """Print a hardened systemd unit for this worker, or install it."""
    from provider import systemd
    from provider.config import load_config

    with errors():
        text = systemd.unit(config.resolve(), load_config(config), password_file.resolve(), user)
        if not install:
            typer.echo(text, nl=False)
            return
        confirm(f"{text}\nThis is written to {systemd.UNIT_PATH}.", yes=yes)
        systemd.install(text, systemd.UNIT_PATH)
    typer.echo(
        f"wrote {systemd.UNIT_PATH}; next: systemctl daemon-reload && systemctl enable --now {systemd.UNIT_NAME}"
    )
