"""Fixtures of the Ape tests, by subject in fixtures/. One anvil serves all; Ape undoes each test's changes."""

from tests.contracts.ape.fixtures.accounts import consumer, deployer, provider_owner, stranger
from tests.contracts.ape.fixtures.deployment import deployment
from tests.contracts.ape.fixtures.market import arbitration, market

__all__ = ["arbitration", "consumer", "deployer", "deployment", "market", "provider_owner", "stranger"]
