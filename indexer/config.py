"""The indexer's configuration: one TOML file; paths in it are relative to the file.

rpc = ["https://…", "https://…", "https://…"]  # three or more: then one that lies or lags changes nothing
deployment = "8453.json"
database = "postgresql:///market"               # or the path of an SQLite file
schema = "clawmarket"                           # Postgres alone: where the tables are
providers = ["https://…"]                       # providers that are asked for their metadata when nobody knows them yet
poll_s = 0.5                                    # how often the head is asked for, in seconds
metrics_port = 9480                             # of `run` on 127.0.0.1; without it there is none

[api]                                           # of `serve`: see `indexer.api.settings`
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from indexer.api.settings import ApiSettings
from indexer.exceptions import ConfigUnusable

_POSTGRES = ("postgresql://", "postgres://")


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    return _folder(info) / path


def _database(value: str, info: ValidationInfo) -> str:
    return value if value.startswith(_POSTGRES) else str(_folder(info) / value)


def _folder(info: ValidationInfo) -> Path:
    context: dict[str, Any] = info.context or {}
    return Path(context.get("folder", ""))


class IndexerConfig(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    rpc: list[str] = Field(min_length=1)
    deployment: Annotated[Path, AfterValidator(_beside_the_file)]
    database: Annotated[str, AfterValidator(_database)] = "indexer.sqlite"
    schema_name: str = Field(default="clawmarket", alias="schema", pattern=r"^[a-z][a-z0-9_]{0,40}$")
    providers: list[str] = Field(default_factory=list)
    poll_s: float = Field(default=0.5, gt=0, le=60)
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    api: ApiSettings = ApiSettings()

    @property
    def is_postgres(self) -> bool:
        """Whether the tables are on Postgres, else in an SQLite file."""
        return self.database.startswith(_POSTGRES)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads the file and makes its paths absolute. Raises ConfigUnusable naming what is wrong."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls.model_validate(content, context={"folder": path.resolve().parent})
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
