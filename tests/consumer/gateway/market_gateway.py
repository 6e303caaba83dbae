"""A whole gateway on a real chain: leases, budgets, routing and the HTTP interface, for tests that ask it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from consumer.config import ConsumerConfig
from consumer.gateway.app import create_app
from consumer.gateway.gateway import Gateway
from consumer.session import Session
from consumer.tls import unchecked_context
from protocol import keystore
from tests.support.engines import tiny_model
from tests.support.live_market import PASSWORD, SCRYPT_N, LiveMarket, signer_of
from tests.support.serving import serve


@dataclass
class Running:
    """What a test may look at; `http` carries an API key."""

    gateway: Gateway
    session: Session
    http: httpx.AsyncClient
    url: str
    key: str


def write_config(
    market: LiveMarket,
    folder: Path,
    providers: Sequence[str],
    more: str = "",
    tokenizer: Path | None = None,
    rpc: str = "",
) -> Path:
    """A consumer's folder; account 2 owns it and has money in the escrow. Canaries only where `more` says so."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "owner.json"
    if not owner.exists():
        keystore.save(owner, signer_of(2), PASSWORD, scrypt_n=SCRYPT_N)
    if "canary_s" not in more:
        off = "[gateway]\ncanary_s = 0\n"
        more = more.replace("[gateway]\n", off) if "[gateway]" in more else more + "\n" + off
    path = folder / "consumer.toml"
    path.write_text(
        f"""rpc = ["{rpc or market.node.url}"]
deployment = "{market.deployment_file}"
tokenizers = ["{tokenizer or tiny_model()}"]
providers = {list(providers)!r}
{more}
"""
    )
    return path


@asynccontextmanager
async def running(
    market: LiveMarket,
    folder: Path,
    providers: Sequence[str],
    more: str = "",
    tokenizer: Path | None = None,
    rpc: str = "",
) -> AsyncIterator[Running]:
    """Runs it in this process until the end of the block; `more` is added to its configuration."""
    config = ConsumerConfig.load(write_config(market, folder, providers, more, tokenizer, rpc))
    session = Session(config, PASSWORD, scrypt_n=SCRYPT_N)
    gateway = Gateway(session, config)
    await gateway.start()
    _, key = gateway.keys.make("test")
    try:
        async with (
            serve(create_app(gateway, gateway.keys, config.gateway)) as url,
            httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {key}"},
                timeout=60,
                verify=unchecked_context(),
            ) as http,
        ):
            yield Running(gateway, session, http, url, key)
    finally:
        await gateway.stop()
        session.close()
