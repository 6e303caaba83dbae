"""The consumer's configuration and account, made once: `clawmarket consumer init`."""

import json
from dataclasses import dataclass
from pathlib import Path

from consumer.exceptions import ConfigUnusable
from consumer.tokenizer import PromptCounter
from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.keystore import SCRYPT_N, Password

CONFIG_FILE = "consumer.toml"


@dataclass(frozen=True)
class SetupPlan:
    """What to make: without `owner` a new key, without tokenizers a consumer that trusts the provider's counts if it
    `accepts_unverified`, and else buys nothing yet."""

    folder: Path
    rpc: str
    deployment: Path
    tokenizer: Path | None = None
    owner: Path | None = None
    scrypt_n: int = SCRYPT_N
    tokenizers: tuple[Path, ...] = ()
    providers: tuple[str, ...] = ()
    accepts_unverified: bool = True


@dataclass(frozen=True)
class Setup:
    """What came of it: the configuration file and the owner's address."""

    config: Path
    owner: str


def set_up(plan: SetupPlan, password: Password) -> Setup:
    """Checks everything, then writes. Raises ConfigUnusable, TokenizerUnusable, ChainError, KeystoreError."""
    config = plan.folder / CONFIG_FILE
    if config.exists():
        raise ConfigUnusable(f"{config} exists: use or edit it, or choose another folder")
    with ChainClient([plan.rpc], deployments.load_file(plan.deployment)) as client:
        client.check_deployment()
    for tokenizer in (*([plan.tokenizer] if plan.tokenizer else []), *plan.tokenizers):
        PromptCounter(tokenizer).close()
    key = plan.owner or plan.folder / "owner.json"
    if plan.owner is None and not key.exists():
        keystore.create(key, password, scrypt_n=plan.scrypt_n)
    owner = keystore.load(key, password).address
    lines = [f"rpc = [{_quoted(plan.rpc)}]", f"deployment = {_quoted(plan.deployment.resolve())}"]
    lines.append(f"owner_key = {_quoted(key.resolve())}")
    if plan.tokenizer:
        lines.append(f"tokenizer = {_quoted(plan.tokenizer.resolve())}")
    elif not plan.tokenizers:
        believed = str(plan.accepts_unverified).lower()
        lines.append(f"accept_unverified = {believed}  # true: pays what the provider says it counted")
    if plan.tokenizers:
        lines.append(f"tokenizers = [{', '.join(_quoted(path.resolve()) for path in plan.tokenizers)}]")
    if plan.providers:
        lines.append(f"providers = [{', '.join(_quoted(url) for url in plan.providers)}]")
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigUnusable(f"{config} cannot be written: {error.strerror}") from error
    return Setup(config, owner)


def _quoted(value: str | Path) -> str:
    """A TOML basic string."""
    return json.dumps(str(value), ensure_ascii=False)
