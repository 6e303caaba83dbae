"""The gateway's tables of the consumer's configuration.

[gateway]       host = "127.0.0.1", port = 8411 (0: any), idle_timeout_s = 30, canary_s = 3600 (0: never)
[local.NAME]    path = "model.gguf", context = 4096, threads = 2
[hedge]         after_ms = 0 (off), max_extra = "0.10 USDC" a day
[upstream.NAME] url = "https://host/v1", key_env = "NAME_KEY" or key_file = "key.txt", models = ["a", "b"]
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from consumer.settings import Amount, LocalPath, Settings
from protocol.money import USDC, Money

_Name = Annotated[str, Field(min_length=1, max_length=200)]


class GatewaySettings(Settings):
    """`allowed_hosts` are further names by which applications reach the gateway, such as host.docker.internal.

    Providers with leases in use are probed about every `canary_s` seconds; `canary_answers` are recorded answers of
    models whose files are not here, see `consumer.gateway.references`.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8411, ge=0, le=65535)
    allowed_hosts: list[str] = Field(default_factory=list)
    idle_timeout_s: float = Field(default=30.0, gt=0)
    max_requests: int = Field(default=256, ge=1)
    max_body_mb: int = Field(default=16, ge=1)
    drain_s: int = Field(default=30, ge=0)
    canary_s: float = Field(default=3600.0, ge=0)
    canary_answers: LocalPath | None = None


class HedgeSettings(Settings):
    """A second route is asked when the first was silent for `after_ms`; 0 for never."""

    after_ms: int = Field(default=0, ge=0)
    max_extra: Amount = Money(10**USDC.decimals // 10, USDC)


class LocalSettings(Settings):
    """A model file served by a process of this gateway; without `threads` llama.cpp decides."""

    path: LocalPath
    context: int = Field(default=4096, ge=64)
    threads: int | None = Field(default=None, ge=1)


class UpstreamSettings(Settings):
    """Somebody else's OpenAI-compatible server; `url` is what its clients use as base URL."""

    url: str = Field(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$")
    key_env: str | None = None
    key_file: LocalPath | None = None
    models: list[_Name] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key_env is not None and self.key_file is not None:
            raise ValueError("give key_env or key_file, not both")
        return self
