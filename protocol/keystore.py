"""Private keys on disk: Web3 Secret Storage version 3, encrypted with scrypt.

    KeystoreError (ProtocolError)
    ├── KeystoreExists    there is a file already; a key is never overwritten
    ├── KeystoreDamaged   the file is missing, unreadable, open to others or no keystore
    └── WrongPassword     the password does not open it, or there is none

A file is written whole or not at all, readable by its owner only. No key and no password appears in a representation, a
message or a log.
"""

# ruff: noqa: N818 - errors are named for what is wrong, as their users read them
from __future__ import annotations

import getpass
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eth_account import Account

from protocol.address import to_address
from protocol.exceptions import InvalidField, ProtocolError
from protocol.signing import Signer

SCRYPT_N = 2**18
"""Cost of a password guess: about a second and 256 MiB."""

_MAX_BYTES = 64 * 1024
_MAX_SCRYPT_BYTES = 512 * 1024 * 1024
_MAX_SCRYPT_P = 16
_MAX_PBKDF2_ROUNDS = 10_000_000
_OTHERS = 0o077
_CIPHER = "aes-128-ctr"


class KeystoreError(ProtocolError):
    """A key could not be stored or opened."""


class KeystoreExists(KeystoreError):
    """The file exists; nothing was written."""


class KeystoreDamaged(KeystoreError):
    """The file cannot be used as a keystore."""


class WrongPassword(KeystoreError):
    """The password does not open the keystore."""


class Password:
    """A password that shows itself to nobody who prints it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not text:
            raise WrongPassword("the password is empty: give one in a file, the environment or at the prompt")
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Password(…)"


def find_password(*, file: Path | None = None, env: str | None = None, prompt: str | None = None) -> Password:
    """The password from a file (its first line), else from the environment variable `env`, else typed at the prompt.

    Raises WrongPassword when none of them has one.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise WrongPassword(
                f"the password file {file} cannot be read: check the path and its permissions"
            ) from None
        return Password(lines[0] if lines else "")
    if env is not None and env in os.environ:
        return Password(os.environ[env])
    if prompt is not None and sys.stdin is not None and sys.stdin.isatty():
        return Password(getpass.getpass(prompt))
    raise WrongPassword(f"no password: give a password file{f', set {env}' if env else ''} or run in a terminal")


def create(path: Path, password: Password, *, scrypt_n: int = SCRYPT_N) -> Signer:
    """A new random key, stored at `path` before it is returned. Raises KeystoreExists."""
    signer = Signer.generate()
    save(path, signer, password, scrypt_n=scrypt_n)
    return signer


def save(path: Path, signer: Signer, password: Password, *, scrypt_n: int = SCRYPT_N) -> None:
    """Store a key. Raises KeystoreExists, and KeystoreError when the folder cannot be written."""
    if path.exists():
        raise _exists(path)
    document = Account.encrypt(signer.private_key, password.reveal(), kdf="scrypt", iterations=scrypt_n)
    document["address"] = signer.address[2:].lower()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KeystoreError(f"the folder {path.parent} cannot be made ({error.strerror})") from None
    try:
        _write(path, (json.dumps(document) + "\n").encode())
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise KeystoreError(f"{path} cannot be written ({error.strerror}): check the folder and the disk") from None


def address(path: Path) -> str:
    """Whose key the file says it holds, in EIP-55 form, without a password; proved only by `load`."""
    return _claimed_address(path, _read(path))


def load(path: Path, password: Password) -> Signer:
    """The key in a file. Raises WrongPassword, KeystoreDamaged."""
    document = _read(path)
    _check_methods(path, document)
    try:
        signer = Signer(bytes(Account.decrypt(document, password.reveal())))
    except InvalidField:
        raise _damaged(path, "it holds no valid key") from None
    except ValueError as error:
        if "MAC mismatch" in str(error):
            raise WrongPassword(f"the password does not open {path}") from None
        raise _damaged(path, "its fields are malformed") from None
    except (KeyError, TypeError, AttributeError):
        raise _damaged(path, "its fields are malformed") from None
    if signer.address != _claimed_address(path, document):
        raise _damaged(path, "it holds another key than it says")
    return signer


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise KeystoreDamaged(f"{path} does not exist: create a key first, or correct the path") from None
    except OSError as error:
        raise KeystoreDamaged(f"{path} cannot be read ({error.strerror})") from None
    if mode & _OTHERS:
        raise KeystoreDamaged(f"{path} is open to other users: run `chmod 600 {path}` if you trust its content")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if len(raw) > _MAX_BYTES or not isinstance(document, dict):
        raise _damaged(path, "it is no keystore")
    if document.get("version") != 3:
        raise _damaged(path, "it is no keystore of version 3")
    return document


def _claimed_address(path: Path, document: Mapping[str, Any]) -> str:
    claimed = document.get("address")
    try:
        return to_address("0x" + str(claimed).lower().removeprefix("0x"))
    except InvalidField:
        raise _damaged(path, "it names no address") from None


def _check_methods(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse unknown methods, and costs that would take all memory or hours."""
    try:
        crypto = document["crypto"]
        kdf, costs, cipher = crypto["kdf"], crypto["kdfparams"], crypto["cipher"]
        if kdf == "scrypt":
            n, r, p = (int(costs[name]) for name in "nrp")
            fits = n > 1 and n & (n - 1) == 0 and 0 < n * r * 128 <= _MAX_SCRYPT_BYTES and 0 < p <= _MAX_SCRYPT_P
        else:
            fits = kdf == "pbkdf2" and 0 < int(costs["c"]) <= _MAX_PBKDF2_ROUNDS
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, "its fields are malformed") from None
    if not fits:
        raise _damaged(path, "its key derivation is unknown or absurdly costly")
    if cipher != _CIPHER:
        raise _damaged(path, "its cipher is unknown")


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _exists(path: Path) -> KeystoreExists:
    return KeystoreExists(f"{path} exists: a key is never overwritten; choose another path or move the old file away")


def _damaged(path: Path, reason: str) -> KeystoreDamaged:
    return KeystoreDamaged(f"{path} cannot be used: {reason}; restore it from your backup")
