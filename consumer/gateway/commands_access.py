"""How the command line finds a running gateway: by its configuration, or by address and key in the environment."""

import os
from pathlib import Path
from typing import Annotated

import typer

from consumer.client import URL_VARIABLE, Client
from consumer.config import ConsumerConfig
from consumer.exceptions import ConfigUnusable
from consumer.gateway.server import base_url
from consumer.spending.offline import open_keys

KEY_FILE = "api_key"
AccessOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="CLAWMARKET_CONSUMER", help="The consumer's TOML file; else CLAWMARKET_URL."),
]


def client_of(config: Path | None) -> Client:
    """A client of the gateway of this configuration. Raises ConfigUnusable."""
    if config is None:
        return Client()
    loaded = ConsumerConfig.load(config)
    url = os.environ.get(URL_VARIABLE)
    if not url and loaded.gateway.port == 0:
        raise ConfigUnusable(f"the gateway's port is 0, so any: set {URL_VARIABLE} to what `gateway run` printed")
    return Client(url or base_url(loaded.gateway, loaded.gateway.port), own_key(loaded))


def own_key(config: ConsumerConfig) -> str | None:
    """The first key, which `gateway init` made for the command line; None where it is gone."""
    try:
        return key_file(config).read_text(encoding="ascii").strip()
    except OSError:
        return None


def make_own_key(config: ConsumerConfig) -> None:
    """Makes that first key. Raises StoreError."""
    config.data.mkdir(parents=True, exist_ok=True)
    _, key = open_keys(config).make("first")
    with os.fdopen(os.open(key_file(config), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")


def key_file(config: ConsumerConfig) -> Path:
    """Where it is kept, readable for its owner only."""
    return config.data / KEY_FILE


def greeting(url: str, key: Path) -> str:
    """What to do with a gateway that has just started; `key` is the file."""
    body = """'{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'"""
    return f"""serves on {url}

  curl {url}/chat/completions -H "Authorization: Bearer $(cat {key})" \\
    -H 'Content-Type: application/json' -d {body}

  from pathlib import Path
  from openai import OpenAI
  client = OpenAI(base_url="{url}", api_key=Path("{key}").read_text().strip())
"""
