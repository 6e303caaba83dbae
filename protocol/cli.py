"""`clawmarket keys …`: keystores of accounts and node keys."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from protocol import keystore
from protocol.exceptions import InvalidField, ProtocolError
from protocol.keystore import KeystoreError, Password, WrongPassword, find_password
from protocol.signing import Signer

PASSWORD_VARIABLE = "CLAWMARKET_PASSWORD"  # noqa: S105 - the variable's name
MAX_KEY_CHARACTERS = 1_024
app = typer.Typer(help="Make, import and look at keystores.", no_args_is_help=True)

PathArgument = Annotated[Path, typer.Argument(help="The keystore's file.")]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", help="File with the keystore's password.")]


@app.command()
def new(path: PathArgument, password_file: PasswordFileOption = None) -> None:
    """Make a random key and store it; prints its address."""
    with _errors():
        typer.echo(keystore.create(path, _new_password(password_file)).address)


@app.command(name="import")
def import_key(
    path: PathArgument,
    key_file: Annotated[Path | None, typer.Option(help="File with the key in hex; else asked for.")] = None,
    password_file: PasswordFileOption = None,
) -> None:
    """Store a private key from elsewhere, never taken from the command line; prints its address."""
    with _errors():
        signer = Signer(_private_key(key_file))
        keystore.save(path, signer, _new_password(password_file))
        typer.echo(signer.address)


@app.command()
def address(path: PathArgument) -> None:
    """Print whose key a keystore says it holds; needs no password."""
    with _errors():
        typer.echo(keystore.address(path))


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ProtocolError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _new_password(file: Path | None) -> Password:
    """A password typed is asked for twice: with a slip in it the key would be lost."""
    password = find_password(file=file, env=PASSWORD_VARIABLE, prompt="Password of the new keystore: ")
    if file is None and PASSWORD_VARIABLE not in os.environ and getpass.getpass("Again: ") != password.reveal():
        raise WrongPassword("the two passwords differ: nothing was stored")
    return password


def _private_key(file: Path | None) -> bytes:
    """32 bytes from hex. No error shows what was read."""
    if file is not None:
        try:
            text = file.read_text(encoding="ascii")[:MAX_KEY_CHARACTERS]
        except (OSError, UnicodeDecodeError):
            raise KeystoreError(f"the key file {file} cannot be read: check the path and its permissions") from None
    elif sys.stdin is not None and sys.stdin.isatty():
        text = getpass.getpass("Private key in hex: ")
    else:
        raise KeystoreError("no private key: give --key-file or run in a terminal")
    try:
        return bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        raise InvalidField("private_key", "not hex") from None
