"""Deploy the contracts, or verify the deployment that is there.

    ape run deploy --network ethereum:local:foundry
    ape run deploy --network http://127.0.0.1:8545
    ape run deploy --network base:sepolia:node --account my-alias --treasury 0x…

Writes deployments/<chain-id>.json and the ABIs in protocol/abi/. An interrupted run goes on where it stopped when
run again; see scripts/deployment/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from ape import accounts, project
from ape.api import AccountAPI, ProviderAPI
from ape.cli import ConnectedProviderCommand

from protocol.chain.deployments import FOLDER
from protocol.chain.exceptions import ChainError
from protocol.chain.rpc import RpcPool
from scripts.deployment import Settings, deploy, load_build, network_of
from scripts.deployment.artifacts import export_abis


class ApeSigner:
    """An account of Ape's: a keystore, a hardware wallet, or a test account."""

    def __init__(self, account: AccountAPI, provider: ProviderAPI) -> None:
        self._account = account
        self._provider = provider

    @property
    def address(self) -> str:
        return str(self._account.address)

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        unsigned = self._provider.network.ecosystem.create_transaction(**transaction)
        signed = self._account.sign_transaction(unsigned)
        if signed is None:
            raise ChainError(f"{self.address} did not sign")
        return bytes(signed.serialize_transaction())


def rpc_of(provider: ProviderAPI) -> RpcPool:
    """The node Ape is connected to. Raises ChainError when it is not reached by HTTP."""
    uri = getattr(provider, "http_uri", None)
    if not uri:
        raise ChainError(f"{provider.name} has no HTTP address: choose a network with one (--network)")
    return RpcPool([uri], provider.chain_id)


@click.command(cls=ConnectedProviderCommand, short_help="Deploy or verify the contracts")
@click.option("--account", "alias", help="Alias of the deployer; a test account on development networks.")
@click.option("--treasury", help="Address of the platform's share of fees; the deployer on development networks.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="Where <chain-id>.json is kept.")
@click.option("--yes", is_flag=True, help="Sign without asking for each transaction.")
def cli(provider: ProviderAPI, alias: str | None, treasury: str | None, folder: Path, *, yes: bool) -> None:
    """Deploy the contracts, or verify the deployment that is there."""
    try:
        network = network_of(provider.chain_id)
        project.load_contracts()
        artifacts = load_build()
        for path in export_abis(artifacts):
            click.echo(f"wrote {path}")
        if alias is None and not network.dev:
            raise click.UsageError("--account is needed: the alias of the account that deploys")
        account = accounts.load(alias) if alias else accounts.test_accounts[0]
        if yes and alias:
            account.set_autosign(True)
        with rpc_of(provider) as rpc:
            deploy(rpc, ApeSigner(account, provider), artifacts, network, Settings(treasury, folder, report=click.echo))
    except ChainError as error:
        raise click.ClickException(str(error)) from None
