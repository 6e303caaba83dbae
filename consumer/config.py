"""The consumer's configuration: one TOML file; paths in it are relative to the file.

rpc = ["https://…"]
deployment = "8453.json"
data = "data"                  # records and session keys
owner_key = "owner.json"       # keystore of the account that owns the deposits
tokenizers = ["model.gguf"]    # count tokens and read them back with the tokenizers the terms fix
accept_unverified = false      # true: without tokenizer, pay what the provider says it counted
indexers = ["https://…"]       # where providers are found; the chain confirms each
providers = ["https://…"]      # providers that are asked also if no indexer lists them

The other sections are described where they belong: `[budget]` and `[leases]` in `consumer.spending.settings`,
`[limits]` in `consumer.routing.settings`, `[gateway]`, `[hedge]`, `[local.NAME]` and `[upstream.NAME]` in
`consumer.gateway.settings`.
"""

import tomllib
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from consumer.exceptions import ConfigUnusable
from consumer.gateway.settings import GatewaySettings, HedgeSettings, LocalSettings, UpstreamSettings
from consumer.routing.settings import LimitSettings
from consumer.settings import LocalPath, Settings
from consumer.spending.settings import BudgetSettings, LeaseSettings


class ConsumerConfig(Settings):
    """The whole file. `tokenizer` is one more of the `tokenizers`."""

    rpc: list[str] = Field(min_length=1)
    deployment: LocalPath
    data: LocalPath = Path("data")
    owner_key: LocalPath = Path("owner.json")
    tokenizer: LocalPath | None = None
    tokenizers: list[LocalPath] = Field(default_factory=list)
    accept_unverified: bool = False
    indexers: list[str] = Field(default_factory=list)
    providers: list[str] = Field(default_factory=list)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    leases: LeaseSettings = Field(default_factory=LeaseSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    hedge: HedgeSettings = Field(default_factory=HedgeSettings)
    local: dict[str, LocalSettings] = Field(default_factory=dict)
    upstream: dict[str, UpstreamSettings] = Field(default_factory=dict)

    @property
    def tokenizer_files(self) -> list[Path]:
        """Every file that counts tokens."""
        return [*([self.tokenizer] if self.tokenizer else []), *self.tokenizers]

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
