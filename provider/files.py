"""Writing small files that must survive a crash."""

import os
import secrets
from pathlib import Path

from provider.exceptions import ConfigError


def write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all, on disk when it returns, readable by its owner only. Raises ConfigError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written ({error.strerror}): check the folder and the disk") from error
