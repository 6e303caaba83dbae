"""Give accounts on a development chain ether, CLAW and test USDC, from the deployer's account.

ape run fund --network http://127.0.0.1:8545 "0x…=1 ETH" "0x…=10000 CLAW" "0x…=50 USDC"
"""

from __future__ import annotations

from pathlib import Path

import click
from ape import Contract, accounts
from ape.api import ProviderAPI
from ape.cli import ConnectedProviderCommand

from protocol.address import to_address
from protocol.chain import deployments
from protocol.chain.abi import FOLDER as ABIS
from protocol.exceptions import ProtocolError
from protocol.money import TOKENS, Money, Token
from scripts.deployment import network_of

ETHER = Token("ETH", 18)


def parse_grant(text: str) -> tuple[str, Money]:
    """`0x…=1.5 CLAW` as address and amount. Raises InvalidField."""
    address, _, amount = text.partition("=")
    token = ETHER if amount.endswith(" ETH") else None
    return to_address(address), Money.parse(amount, token)


@click.command(cls=ConnectedProviderCommand, short_help="Give accounts on a development chain ether and tokens")
@click.option("--folder", type=click.Path(path_type=Path), default=deployments.FOLDER, help="Where <chain-id>.json is.")
@click.argument("grants", nargs=-1, required=True, metavar="ADDRESS=AMOUNT...")
def cli(provider: ProviderAPI, folder: Path, grants: tuple[str, ...]) -> None:
    """Give accounts on a development chain ether and tokens: "0x…=1 ETH" "0x…=50 USDC" "0x…=10000 CLAW"."""
    try:
        if not network_of(provider.chain_id).dev:
            raise click.ClickException(f"chain {provider.chain_id} is no development chain: use its faucets")
        deployment = deployments.load(provider.chain_id, folder)
        for receiver, money in [parse_grant(grant) for grant in grants]:
            _give(deployment, receiver, money)
            click.echo(f"{money} to {receiver}")
    except ProtocolError as error:
        raise click.ClickException(str(error)) from None


def _give(deployment: deployments.Deployment, receiver: str, money: Money) -> None:
    treasury = accounts.test_accounts[0]
    if money.token == ETHER:
        treasury.transfer(receiver, money.units)
        return
    name = "TestUSDC" if money.token == TOKENS["USDC"] else "ClawToken"
    contract = Contract(deployment.address(name), abi=ABIS / f"{name}.json")
    give = contract.mint if name == "TestUSDC" else contract.transfer
    give(receiver, money.units, sender=treasury)
