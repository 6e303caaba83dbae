"""The key for somebody else's server, from a file or the environment: never in the configuration, never logged."""

import os

from consumer.exceptions import ConfigUnusable
from consumer.gateway.settings import UpstreamSettings
from protocol.keystore import Password

_MAX_BYTES = 8192


def read_key(settings: UpstreamSettings) -> Password | None:
    """The key, or None if none is configured. Raises ConfigUnusable."""
    if settings.key_env is not None:
        key, where = os.environ.get(settings.key_env, ""), f"the environment variable {settings.key_env}"
    elif settings.key_file is not None:
        where = f"the key file {settings.key_file}"
        try:
            with settings.key_file.open("rb") as file:
                key = file.read(_MAX_BYTES).decode("ascii", "replace")
        except OSError as error:
            raise ConfigUnusable(f"{where} cannot be read: {error.strerror}") from error
    else:
        return None
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigUnusable(f"{where} does not hold a key: it has to be one line of printable characters")
    return Password(key)
