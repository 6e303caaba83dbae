"""Node keys: Registry.register and rotate_node_key on a real chain."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import only_event
from tests.contracts.ape.market import CLAW, ZERO32, Market, signer_named

FOREVER = 2**40 - 1


@pytest.mark.state_row("K1")
def test_register__unknown_key_with_its_proof__is_valid_at_once(market: Market, accounts: Any) -> None:
    owner, key = accounts[4], signer_named("another node")
    market.stake(owner, 10_000 * CLAW)
    assert tuple(market.registry.key_record(key.address)) == (0, 0, 0)
    receipt = market.registry.register(key.address, *market.sign_node_key(owner, key), ZERO32, sender=owner)
    provider = market.registry.provider_of(owner)
    assert market.registry.node_key(provider) == key.address
    assert tuple(market.registry.key_record(key.address)) == (provider, receipt.timestamp, FOREVER)
    assert only_event(receipt, market.registry.ProviderRegistered).node_key == key.address


def test_register__stake_too_low__reverts(market: Market, accounts: Any) -> None:
    owner, key = accounts[4], signer_named("another node")
    market.stake(owner, 10_000 * CLAW - 1)
    with ape.reverts("registry: stake too low"):
        market.registry.register(key.address, *market.sign_node_key(owner, key), ZERO32, sender=owner)


@pytest.mark.state_row("K2")
def test_rotate_node_key__by_the_owner__ends_the_old_one_at_once(market: Market) -> None:
    fresh = signer_named("fresh node")
    proof = market.sign_node_key(market.provider_owner, fresh)
    receipt = market.registry.rotate_node_key(market.provider, fresh.address, *proof, sender=market.provider_owner)
    assert market.registry.node_key(market.provider) == fresh.address
    assert market.registry.key_record(market.node.address)[2] == receipt.timestamp
    assert tuple(market.registry.key_record(fresh.address)) == (market.provider, receipt.timestamp, FOREVER)


@pytest.mark.state_row("K2")
def test_rotate_node_key__with_a_lease_open__ends_no_lease(market: Market) -> None:
    lease_id = market.open()
    before = list(market.escrow.lease(lease_id))
    fresh = signer_named("fresh node")
    proof = market.sign_node_key(market.provider_owner, fresh)
    market.registry.rotate_node_key(market.provider, fresh.address, *proof, sender=market.provider_owner)
    assert list(market.escrow.lease(lease_id)) == before


@pytest.mark.state_row("K3")
def test_rotate_node_key__back_to_an_ended_key__reverts(market: Market, accounts: Any) -> None:
    owner, old, fresh = market.provider_owner, market.node, signer_named("fresh node")
    market.registry.rotate_node_key(market.provider, fresh.address, *market.sign_node_key(owner, fresh), sender=owner)
    with ape.reverts("registry: node key was used before"):
        market.registry.rotate_node_key(market.provider, old.address, *market.sign_node_key(owner, old), sender=owner)
    other = accounts[4]
    market.stake(other, 10_000 * CLAW)
    with ape.reverts("registry: node key was used before"):
        market.registry.register(old.address, *market.sign_node_key(other, old), ZERO32, sender=other)


@pytest.mark.state_row("K4")
def test_deregistration__leaves_the_key_to_its_provider(market: Market) -> None:
    market.staking.start_cooldown(1, sender=market.provider_owner)
    assert not market.registry.is_registered(market.provider)
    assert market.registry.node_key(market.provider) == market.node.address
    assert market.registry.key_record(market.node.address)[2] == FOREVER
