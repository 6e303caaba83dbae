"""What a provider has earned, and paying it out to its owner. Amounts in token base units."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.keystore import Password
from protocol.money import CLAW, USDC, Money, Token
from provider.config import Config
from provider.owner import open_owner

TOKEN_CONTRACTS = {USDC: "TestUSDC", CLAW: "ClawToken"}


@dataclass(frozen=True)
class TokenEarnings:
    """`held` is the bond until it matures, `free` is ready to collect, `account` to withdraw."""

    token: Token
    address: str
    held: int
    free: int
    account: int

    def __str__(self) -> str:
        held, free, account = (Money(units, self.token).format() for units in (self.held, self.free, self.account))
        return f"{self.token.symbol}: held {held}, matured {free}, in the account {account}"


def earnings(config: Config) -> list[TokenEarnings]:
    """One entry for each payment token. Raises ChainError."""
    with _client(config) as client:
        return read_earnings(client, config.provider.id)


def withdraw(config: Config, owner_key: Path, password: Password, to: str | None = None) -> list[Money]:
    """Collects what has matured and pays out the owner's whole account, in every token; returns what was paid.

    Raises ConfigError if the key is not the provider's owner, ChainError, KeystoreError.
    """
    provider = config.provider.id
    paid = []
    with open_owner(config, owner_key, password) as (client, owner):
        for found in read_earnings(client, provider):
            if found.free:
                owner.collect(secrets.token_hex(8), provider, found.address)
            amount = client.account(owner.address, found.address)
            if amount:
                owner.withdraw(secrets.token_hex(8), found.address, amount, to or owner.address)
                paid.append(Money(amount, found.token))
    return paid


def _client(config: Config) -> ChainClient:
    return ChainClient(config.chain.rpc, deployments.load_file(config.chain.deployment))


def read_earnings(client: ChainClient, provider: int) -> list[TokenEarnings]:
    """One entry for each payment token. Raises ChainError."""
    owner = client.get(client.reads.owner_of(provider))
    found = []
    for token, contract in TOKEN_CONTRACTS.items():
        address = client.deployment.address(contract)
        earned, account = client.read([client.reads.earnings(provider, address), client.reads.account(owner, address)])
        found.append(TokenEarnings(token, address, earned.held, earned.free, account))
    return found
