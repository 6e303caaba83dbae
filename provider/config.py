"""The worker's configuration: one TOML file; paths in it are relative to the file.

    [chain]
    rpc = ["https://…"]               # one or more addresses
    deployment = "8453.json"          # the deployment file

    [provider]
    id = 7                            # given by the registry; written by `clawmarket provider init`
    data = "data"                     # ledger, offers, sender's records
    node_key = "node.json"            # keystore of the node key
    operator_key = "operator.json"    # keystore of the account that pays for transactions

    [engine]
    model = "model.gguf"              # one more model beside those of `clawmarket models add`
    memory = "8 GiB"                  # of all models together; by default half of the machine's
    threads = 3                       # of all models together; by default all cores but one, never more than there are
    parallel = 4                      # answers at once, for each model
    context = 4096                    # tokens per sequence

    [backends.smollm2-135m-instruct]  # offers of this model with the engine "openai-compatible" are served by
    url = "http://127.0.0.1:11434/v1" # another server
    model = "smollm2:135m"            # its name there
    key_file = "upstream.key"         # or key_env = "UPSTREAM_KEY"
    api = "completions"               # or "chat" for servers without plain completions
    logprobs = false                  # whether it can give log-probabilities; without them nobody can check answers

    [serving]
    host = "127.0.0.1"
    port = 8080
    credit_stranger = "2000"          # base units of unpaid value from an owner never settled with
    chunk_tokens = 32

    [settling]
    tick_s = 300
    anchor_s = 3600
    gas_multiple = 20                 # settle when unsettled value is this many times its gas cost
    ether_price = "3000000000"        # base units of the payment token per ether
close_margin_s = 600              # serving ends so long before a lease closes; by default two ticks
releases_per_tick = 4             # closed leases released a tick, so that offers do not fill up

    [operations]                      # for the owner's eyes: /status, /metrics, /readyz, /healthz
    enabled = true
    host = "127.0.0.1"                # whoever reaches it reads earnings and traffic
    port = 9464

    [tls]
    enabled = true                    # by default where serving.host is not a loopback address
    certificate = "fullchain.pem"     # with `key`: by default a self-signed one is made and kept beside this file
    key = "privkey.pem"

    [metadata]                        # what `clawmarket provider publish` tells the market
    urls = ["https://203.0.113.7:8080"]
    name = "my machine"
    region = "DE"                     # country and optional subdivision, ISO 3166; ZZ is unknown

    [backup]
    folder = "/mnt/backup"            # on another disk: a backup is made there before each anchor is sent
    keep = 3

    [host]                            # the owner comes first; without a setting nothing is limited
    schedule = ["mon-fri 19:00-07:00", "sat,sun 00:00-24:00"]   # local time in which the machine is lent out
    pause_while_in_use = 600          # seconds without a key press before it is
    max_other_cpu = 50                # percent of the machine that other programs may use meanwhile
    cores = 6                         # the worker and its engines keep to so many
    free_memory = "4 GiB"             # paused while less is left, and so with free_vram
    max_temperature_c = 80
    max_power_w = 250
    on_battery = false
    drain_s = 30                      # how long requests may run on after a signal to stop

    [policy]
    rules = "policy.toml"             # phrases that are refused, see provider/content_policy.py

    [limits]                          # against abuse
    connections = 1024
    connections_per_address = 64
    trusted_proxies = []              # addresses whose X-Forwarded-For is believed

Amounts are decimal strings in token base units.
"""

import math
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from provider.exceptions import ConfigError

if TYPE_CHECKING:  # their packages load servers and sensors, which not every command needs
    from provider.guard import GuardLimits
    from provider.host import HostLimits


def _amount(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def _memory(value: Any) -> Any:
    found = re.fullmatch(r"([0-9]{1,6}) ?([KMGT])iB", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('memory is written like "8 GiB" or "512 MiB"')
    return int(found[1]) << 10 * (1 + "KMGT".index(found[2]))


Memory = Annotated[int, BeforeValidator(_memory), Field(ge=1)]
Amount = Annotated[int, BeforeValidator(_amount), Field(ge=0, lt=2**96)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChainSection(_Section):
    """How to reach the chain."""

    rpc: list[str] = Field(min_length=1)
    deployment: Path


class ProviderSection(_Section):
    """Who this worker is."""

    id: int = Field(ge=1, lt=2**32)
    data: Path = Path("data")
    node_key: Path = Path("node.json")
    operator_key: Path = Path("operator.json")


class EngineSection(_Section):
    """How models are run; `memory` in bytes and `threads` are shared by all of them."""

    model: Path | None = None
    memory: Memory | None = None
    threads: int | None = Field(default=None, ge=1, le=256)
    parallel: int = Field(default=4, ge=1, le=64)
    context: int = Field(default=0, ge=0)


class BackendSection(_Section):
    """Another server that answers for one model, reached by the OpenAI protocol."""

    url: str = Field(pattern=r"^https?://[^/?#@]+(/[^?#@]*)?$")
    model: str = Field(min_length=1, max_length=256)
    api: Literal["completions", "chat"] = "completions"
    logprobs: bool = False
    key_file: Path | None = None
    key_env: str | None = None

    @model_validator(mode="after")
    def _safe_key(self) -> Self:
        if self.key_file is not None and self.key_env is not None:
            raise ValueError("give key_file or key_env, not both")
        has_key = self.key_file is not None or self.key_env is not None
        if has_key and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", self.url + "/"):
            raise ValueError("a key is sent over https only, or to this machine")
        return self


class ServingSection(_Section):
    """The HTTP surface and the credit given.

    An answer waits up to `voucher_timeout_s` at a time for a voucher, and `max_paused_s` in all; then it ends unpaid.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    credit_stranger: Amount = 2_000
    credit_growth_bps: int = Field(default=1_000, ge=0, le=10_000)
    chunk_tokens: int = Field(default=32, ge=1, le=4096)
    voucher_timeout_s: float = Field(default=30.0, gt=0, le=600)
    max_paused_s: float = Field(default=120.0, gt=0, le=3_600)
    lease_ttl_s: float = Field(default=5.0, ge=0, le=300)


class SettlingSection(_Section):
    """When to anchor and settle."""

    tick_s: float = Field(default=300.0, gt=0)
    anchor_s: float = Field(default=3600.0, ge=0)
    gas_multiple: int = Field(default=20, ge=0)
    ether_price: Amount = 3_000_000_000
    close_margin_s: int | None = Field(default=None, ge=0, le=86_400)
    releases_per_tick: int = Field(default=4, ge=0, le=64)

    @property
    def closing_margin_s(self) -> int:
        """Two ticks unless set: one may be missed."""
        return math.ceil(2 * self.tick_s) if self.close_margin_s is None else self.close_margin_s


class OperationsSection(_Section):
    """The owner's own listener; whoever reaches it reads earnings and traffic."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=9464, ge=0, le=65535)


class TlsSection(_Section):
    """Encryption of the HTTP surface. Without files of one's own a self-signed certificate is made."""

    enabled: bool | None = None
    certificate: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        return self


class MetadataSection(_Section):
    """What the provider says of itself: addresses, a name, and where it is."""

    urls: list[str] = Field(default=[], max_length=16)
    name: str = Field(default="", max_length=80)
    region: str = Field(default="ZZ", pattern="^[A-Z]{2}(-[A-Z0-9]{1,3})?$")


class BackupSection(_Section):
    """Where the worker keeps copies of its ledger, and how many."""

    folder: Path | None = None
    keep: int = Field(default=3, ge=1, le=1000)


class HostSection(_Section):
    """What the owner of the machine keeps to itself: times in seconds, sizes in bytes, percent of the machine."""

    schedule: list[str] = Field(default=[], max_length=64)
    pause_while_in_use: float | None = Field(default=None, gt=0)
    max_other_cpu: float | None = Field(default=None, gt=0, le=100)
    cores: int | None = Field(default=None, ge=1)
    free_memory: Memory | None = None
    free_vram: Memory | None = None
    max_temperature_c: float | None = Field(default=None, gt=0)
    max_power_w: float | None = Field(default=None, gt=0)
    on_battery: bool = False
    drain_s: float = Field(default=30.0, ge=0, le=3600)

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.schedule:
            from provider.host import Schedule

            Schedule.parse(self.schedule)
        return self

    def limits(self) -> "HostLimits":
        """As the gate takes them."""
        from provider.host import HostLimits, Schedule

        return HostLimits(
            schedule=Schedule.parse(self.schedule),
            pause_while_in_use_s=self.pause_while_in_use,
            max_other_cpu_percent=self.max_other_cpu,
            min_free_memory=self.free_memory,
            min_free_vram=self.free_vram,
            max_temperature_c=self.max_temperature_c,
            max_power_w=self.max_power_w,
            on_battery=self.on_battery,
        )


class PolicySection(_Section):
    """What is not served."""

    rules: Path | None = None


class LimitsSection(_Section):
    """How much one address and all together may take."""

    connections: int = Field(default=1024, ge=1)
    connections_per_address: int = Field(default=64, ge=1)
    trusted_proxies: list[str] = []

    def guard(self) -> "GuardLimits":
        """As the guard takes them."""
        from provider.guard import GuardLimits

        return GuardLimits(
            connections=self.connections,
            connections_per_address=self.connections_per_address,
            trusted_proxies=tuple(self.trusted_proxies),
        )


class Config(_Section):
    """The whole file."""

    chain: ChainSection
    provider: ProviderSection
    engine: EngineSection = EngineSection()
    backends: dict[str, BackendSection] = {}
    serving: ServingSection = ServingSection()
    settling: SettlingSection = SettlingSection()
    operations: OperationsSection = OperationsSection()
    tls: TlsSection = TlsSection()
    metadata: MetadataSection = MetadataSection()
    backup: BackupSection = BackupSection()
    host: HostSection = HostSection()
    policy: PolicySection = PolicySection()
    limits: LimitsSection = LimitsSection()

    _file: Path = PrivateAttr(default=Path())

    @property
    def file(self) -> Path:
        """Where it was read from."""
        return self._file


def load_config(path: Path) -> Config:
    """Reads the file and makes its paths absolute. Raises ConfigError naming what is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not TOML: {error}") from error
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_input=False)
        )
        raise ConfigError(f"configuration {path}: {faults}") from error
    folder = path.resolve().parent
    loaded = config.model_copy(
        update={
            "backup": config.backup.model_copy(
                update={"folder": folder / config.backup.folder if config.backup.folder else None}
            ),
            "chain": config.chain.model_copy(update={"deployment": folder / config.chain.deployment}),
            "engine": config.engine.model_copy(
                update={"model": folder / config.engine.model if config.engine.model else None}
            ),
            "backends": {
                name: backend.model_copy(update={"key_file": folder / backend.key_file if backend.key_file else None})
                for name, backend in config.backends.items()
            },
            "policy": config.policy.model_copy(
                update={"rules": folder / config.policy.rules if config.policy.rules else None}
            ),
            "tls": config.tls.model_copy(
                update={
                    "certificate": folder / config.tls.certificate if config.tls.certificate else None,
                    "key": folder / config.tls.key if config.tls.key else None,
                }
            ),
            "provider": config.provider.model_copy(
                update={name: folder / getattr(config.provider, name) for name in ("data", "node_key", "operator_key")}
            ),
        }
    )
    loaded._file = path.resolve()  # noqa: SLF001 - of this module
    return loaded
