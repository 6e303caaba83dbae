"""The key for somebody else's server, from a file or the environment: never in the configuration, never logged."""

import os

from protocol.keystore import Password
from provider.config import BackendSection
from provider.exceptions import ConfigError

_MAX_BYTES = 8192


def read_key(backend: BackendSection) -> Password | None:
    """The key, or None if none is configured. Raises ConfigError."""
    if backend.key_env is not None:
        key, where = os.environ.get(backend.key_env, ""), f"the environment variable {backend.key_env}"
    elif backend.key_file is not None:
        where = f"the key file {backend.key_file}"
        try:
            with backend.key_file.open("rb") as file:
                key = file.read(_MAX_BYTES).decode("ascii")
        except OSError as error:
            raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise ConfigError(f"{where} does not hold a key: it is not ASCII") from None
    else:
        return None
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{where} does not hold a key: it has to be one line of printable characters")
    return Password(key)
