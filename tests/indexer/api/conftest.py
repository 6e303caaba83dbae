"""One market that has traded, its tables on each database, and the API over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.chain.deployments import Profile
from protocol.chain.rpc import RpcPool
from scripts.deployment import Settings, deploy, load_build, network_of
from scripts.deployment.signer import KeySigner
from tests.indexer.api.served import Served, serving
from tests.indexer.conftest import CONFIRMATIONS
from tests.indexer.market import Market
from tests.support.anvil import Anvil, dev_account


@contextmanager
def opened_market(folder: Path) -> Iterator[Market]:
    """On a chain of its own, with a provider and a consumer."""
    with Anvil() as node:
        with RpcPool([node.url], node.chain_id) as rpc:
            network, settings = network_of(node.chain_id), Settings(folder=folder)
            deployed = deploy(rpc, KeySigner(dev_account(0)), load_build(), network, settings)
        deployed = replace(deployed, profile=Profile("anvil", confirmations=CONFIRMATIONS))
        deployed.save(folder)
        market = Market(node, deployed, folder / f"{node.chain_id}.json")
        market.open()
        yield market
        market.client.close()


@pytest.fixture(scope="session")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Tests may add to it. Its provider has left."""
    with opened_market(tmp_path_factory.mktemp("market")) as market:
        market.trade()
        yield market


@pytest.fixture(scope="session", params=["postgres", "sqlite"])
def served(
    request: pytest.FixtureRequest, traded: Market, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The API over the market's tables."""
    folder = tmp_path_factory.mktemp(request.param)
    database = request.getfixturevalue("postgres_url") if request.param == "postgres" else "indexer.sqlite"
    with serving(folder, traded, database, "rate_per_s = 100000") as found:
        found.catch_up()
        yield found
