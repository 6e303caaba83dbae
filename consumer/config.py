"""The consumer's configuration: one TOML file; paths in it are relative to the file.

rpc = ["https://…"]
deployment = "8453.json"
data = "data"                  # records and session keys
owner_key = "owner.json"       # keystore of the account that owns the deposits
tokenizer = "model.gguf"       # counts tokens and reads them back with the tokenizer the terms fix
accept_unverified = false      # true: without tokenizer, pay what the provider says it counted
"""

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consumer.exceptions import ConfigUnusable


class ConsumerConfig(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rpc: list[str] = Field(min_length=1)
    deployment: Path
    data: Path = Path("data")
    owner_key: Path = Path("owner.json")
    tokenizer: Path | None = None
    accept_unverified: bool = False

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads the file and makes its paths absolute. Raises ConfigUnusable naming what is wrong."""
        try:
            config = cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigUnusable(f"configuration {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigUnusable(f"configuration {path} is not TOML: {error}") from error
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}"
                for fault in error.errors(include_input=False)
            )
            raise ConfigUnusable(f"configuration {path}: {faults}") from error
        folder = path.resolve().parent
        return config.model_copy(
            update={
                "deployment": folder / config.deployment,
                "data": folder / config.data,
                "owner_key": folder / config.owner_key,
                "tokenizer": folder / config.tokenizer if config.tokenizer else None,
            }
        )
