"""A market on a chain of its own, and a place for tables on each database."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.config import IndexerConfig
from protocol.chain.deployments import Profile
from protocol.chain.rpc import RpcPool
from scripts.deployment import Settings, deploy, load_build, network_of
from scripts.deployment.signer import KeySigner
from scripts.postgres import postgres
from tests.indexer.market import Market
from tests.support.anvil import Anvil, dev_account

CONFIRMATIONS = 5
_names = itertools.count(1)
NewConfig = Callable[..., IndexerConfig]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with Anvil() as node:
        with RpcPool([node.url], node.chain_id) as rpc:
            network, settings = network_of(node.chain_id), Settings(folder=tmp_path)
            deployed = deploy(rpc, KeySigner(dev_account(0)), load_build(), network, settings)
        profile = Profile("anvil", confirmations=CONFIRMATIONS)
        deployed = replace(deployed, profile=profile)
        deployed.save(tmp_path)
        found = Market(node, deployed, tmp_path / f"{node.chain_id}.json")
        yield found
        found.client.close()


@pytest.fixture(params=["postgres", "sqlite"])
def new_config(request: pytest.FixtureRequest, tmp_path: Path, market: Market) -> NewConfig:
    """Makes configurations with an empty database each; further RPC addresses replace the market's own."""

    def make(*rpc: str) -> IndexerConfig:
        name = f"t{next(_names)}"
        is_postgres = request.param == "postgres"
        database = request.getfixturevalue("postgres_url") if is_postgres else f"{name}.sqlite"
        path = tmp_path / f"{name}.toml"
        urls = ", ".join(f'"{url}"' for url in rpc or (market.node.url,))
        path.write_text(
            f'rpc = [{urls}]\ndeployment = "{market.file}"\ndatabase = "{database}"\nschema = "{name}"\npoll_s = 0.05\n'
        )
        return IndexerConfig.load(path)

    return make
