"""What the commands share: options, errors, questions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from protocol.exceptions import ProtocolError
from protocol.keystore import Password, find_password
from provider.engine.errors import EngineError
from provider.exceptions import ProviderError

PASSWORD_VARIABLE = "CLAWMARKET_PASSWORD"  # noqa: S105 - the variable's name

ConfigOption = Annotated[Path, typer.Option("--config", envvar="CLAWMARKET_PROVIDER", help="The worker's TOML file.")]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", help="File with the keystores' password.")]
OwnerOption = Annotated[Path, typer.Option("--owner", envvar="CLAWMARKET_OWNER", help="Keystore of the owner.")]
DevOption = Annotated[
    bool, typer.Option("--dev-sandbox", help="Also bubblewrap, which limits nothing: for development only.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask.")]


@contextmanager
def errors() -> Iterator[None]:
    """Every expected fault ends the command with one line and exit code 1."""
    try:
        yield
    except (ProviderError, ProtocolError, EngineError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def password_of(file: Path | None) -> Password:
    """From the file, the environment or the terminal. Raises WrongPassword."""
    return find_password(file=file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")


def confirm(consequences: str, *, yes: bool) -> None:
    """Says what will happen, and goes on only with a yes."""
    typer.echo(consequences)
    if not yes and not typer.confirm("Go on?"):
        typer.echo("nothing was done")
        raise typer.Exit(1)
