"""One anvil and one probe contract for each module; each test sends from accounts of its own."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.chain.client import ChainClient
from protocol.chain.deployments import Deployment, Profile
from protocol.chain.rpc import RpcLimits
from protocol.signing import Signer
from tests.protocol.chain.probe import ETHER, deploy_probe, export_abi, funded
from tests.support.anvil import Anvil

QUICK = RpcLimits(connect_s=2, read_s=5, total_s=10, rounds=2, pause_s=0.01, longest_pause_s=0.02)


@pytest.fixture(scope="module")
def anvil() -> Iterator[Anvil]:
    with Anvil() as node:
        yield node


@pytest.fixture(scope="module")
def deployment(anvil: Anvil) -> Deployment:
    return deploy_probe(anvil)


@pytest.fixture
def node(anvil: Anvil) -> Iterator[Anvil]:
    """The module's node, left mining at once and with an empty pool."""
    yield anvil
    anvil.automine(True)
    anvil.mine()


@pytest.fixture(scope="module")
def abi_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_abi(tmp_path_factory.mktemp("abi"))


@pytest.fixture
def make_client(deployment: Deployment, abi_folder: Path) -> Iterator[Callable[..., ChainClient]]:
    """Clients of the module's deployment, closed after the test."""
    clients: list[ChainClient] = []

    def make(*urls: str, profile: Profile | None = None, limits: RpcLimits = QUICK) -> ChainClient:
        found = deployment
        if profile is not None:
            found = Deployment(found.chain_id, found.genesis_hash, found.block, profile, dict(found.contracts))
        clients.append(ChainClient(urls, found, limits=limits, abi_folder=abi_folder))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., ChainClient], node: Anvil) -> ChainClient:
    return make_client(node.url)


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what survives kill -9 there survives it anywhere, and syncs are free."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


_seeds = itertools.count(0xC1A0)


@pytest.fixture
def signer(node: Anvil) -> Signer:
    """A funded account that no other test uses."""
    return funded(node, next(_seeds), ETHER)
