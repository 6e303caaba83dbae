"""`clawmarket models …`"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from protocol.exceptions import ProtocolError
from provider.exceptions import ProviderError

app = typer.Typer(help="The model files this machine may serve.", no_args_is_help=True)

ConfigOption = Annotated[Path, typer.Option("--config", envvar="CLAWMARKET_PROVIDER", help="The worker's TOML file.")]
NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
_LARGE = 256 * 1024 * 1024


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="GGUF file; it stays where it is.")],
    config: ConfigOption,
    name: Annotated[str | None, typer.Option(help="Name for clients; by default the one everybody knows.")] = None,
) -> None:
    """Check a model file, read it, and register it under a name."""
    from provider.config import load_config
    from provider.models.library import ModelLibrary
    from provider.sandbox.daemon import Daemon
    from provider.sandbox.model_checks import open_checks
    from provider.sandbox.paths import SandboxPaths

    try:
        if Daemon(SandboxPaths.find()).answers():
            with open_checks() as checks:
                checks.check(path)
        else:
            typer.echo("not checked, as the sandbox does not run: the engine checks it before it loads it", err=True)
        model = ModelLibrary(load_config(config).provider.data).add(path, name, _show)
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{model.entry.name}  {model.entry.quantisation}  {model.entry.gguf_sha256}")
    typer.echo("next: publish an offer of it with `clawmarket provider init`")


@app.command()
def check(path: Annotated[Path, typer.Argument(help="GGUF file.")]) -> None:
    """Say whether a model file is safe to load, found out in the sandbox."""
    from provider.sandbox.model_checks import open_checks

    try:
        with open_checks() as checks:
            checks.check(path)
    except ProviderError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{path}  safe to load")


@app.command()
def convert(
    path: Annotated[Path, typer.Argument(help="GGUF file; it stays as it is.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
) -> None:
    """Write a model file with 8-bit weights (Q8_0), which answers several requests at once fastest."""
    from provider.models.conversion import convert as convert_file
    from provider.models.files import sha256_of

    try:
        convert_file(path, out)
        typer.echo(f"wrote {out}, {out.stat().st_size / 2**20:,.0f} MiB, SHA-256 {sha256_of(out)}")
    except ProviderError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"next: register it with `clawmarket models add {out}`")


@app.command("list")
def list_models(config: ConfigOption) -> None:
    """Show the registered models."""
    from provider.config import load_config
    from provider.models.library import ModelLibrary

    try:
        models = list(ModelLibrary(load_config(config).provider.data))
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for model in models:
        size = (model.entry.size_bytes or 0) / 2**20
        typer.echo(f"{model.entry.name}  {model.entry.quantisation}  {size:,.0f} MiB  {model.path}")
    if not models:
        typer.echo("there are no models: add one with `clawmarket models add PATH`")


@app.command()
def remove(name: NameArgument, config: ConfigOption) -> None:
    """Forget a model; its file stays. A worker with an offer of it does not start any more."""
    from provider.config import load_config
    from provider.models.library import ModelLibrary

    try:
        ModelLibrary(load_config(config).provider.data).remove(name)
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"removed {name}")


@app.command()
def verify(
    config: ConfigOption, name: Annotated[str | None, typer.Argument(help="The model's name; by default all.")] = None
) -> None:
    """Read whole model files again and hold them against the register."""
    from provider.config import load_config
    from provider.models.library import ModelLibrary

    try:
        library = ModelLibrary(load_config(config).provider.data)
        for found in [name] if name else [model.entry.name for model in library]:
            library.verify(found, _show)
            typer.echo(f"{found}  as registered")
    except (ProviderError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _show(done: int, size: int) -> None:
    """Progress on a terminal, for files that take a while."""
    if size >= _LARGE and sys.stderr.isatty():
        typer.echo(f"\rreading {done * 100 // size} %" + ("\n" if done == size else ""), err=True, nl=False)
