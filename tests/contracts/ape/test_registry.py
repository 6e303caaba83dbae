"""Registry: metadata and offers. Node keys are in test_node_keys.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ape
import pytest

from tests.contracts.ape.checks import only_event
from tests.contracts.ape.market import DAY, HOUR, ZERO32, Market


def test_set_metadata__by_the_owner__is_shown(market: Market, provider_owner: Any) -> None:
    market.registry.set_metadata(market.provider, b"\x01" * 32, sender=provider_owner)
    assert bytes(market.registry.metadata_digest(market.provider)) == b"\x01" * 32


def test_create_offer__of_each_kind__is_open_in_version_1(market: Market, provider_owner: Any) -> None:
    for kind in range(5):
        offer = replace(market.offer, kind=kind)
        market.registry.create_offer(market.provider, offer.as_tuple(), sender=provider_owner)
        offer_id = market.registry.offer_count(market.provider)
        assert offer_id == kind + 2
        stored, version, is_open = market.registry.offer(market.provider, offer_id)
        assert next(iter(stored)) == kind
        assert (version, is_open) == (1, True)
    assert market.registry.lease_offer(market.provider, 6).owner == provider_owner


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": 5}, "registry: unknown offer kind"),
        ({"terms_digest": ZERO32}, "registry: terms digest is zero"),
        ({"max_duration": 0}, "registry: maximum duration is zero"),
        ({"max_active": 0}, "registry: maximum of active leases is zero"),
        ({"close_delay_min": HOUR - 1}, "registry: close delay below 1 hour"),
        ({"close_delay_max": 6 * DAY + 1}, "registry: close delay above 6 days"),
        ({"close_delay_min": 2 * HOUR, "close_delay_max": HOUR}, "registry: close delays out of order"),
    ],
)
def test_create_offer__nobody_could_lease__reverts(
    market: Market, provider_owner: Any, changes: dict[str, Any], reason: str
) -> None:
    with ape.reverts(reason):
        market.registry.create_offer(
            market.provider, replace(market.offer, **changes).as_tuple(), sender=provider_owner
        )


def test_create_offer__in_a_token_not_listed__reverts(market: Market, provider_owner: Any, stranger: Any) -> None:
    offer = replace(market.offer, token=stranger.address)
    with ape.reverts("registry: token is not listed"):
        market.registry.create_offer(market.provider, offer.as_tuple(), sender=provider_owner)


def test_update_offer__paused__stays_paused_in_the_next_version(market: Market, provider_owner: Any) -> None:
    market.registry.set_offer_open(market.provider, 1, False, sender=provider_owner)
    market.update_offer(min_deposit=7)
    found = market.registry.lease_offer(market.provider, 1)
    assert (found.version, found.is_open, found.min_deposit) == (2, False, 7)


@pytest.mark.parametrize("call", ["update_offer", "set_offer_open"])
def test_offer__that_does_not_exist__reverts(market: Market, provider_owner: Any, call: str) -> None:
    argument = market.offer.as_tuple() if call == "update_offer" else True
    with ape.reverts("registry: no such offer"):
        getattr(market.registry, call)(market.provider, 2, argument, sender=provider_owner)


def test_offer__after_deregistration__cannot_be_changed(market: Market, provider_owner: Any) -> None:
    receipt = market.staking.start_cooldown(1, sender=provider_owner)
    assert only_event(receipt, market.registry.ProviderDeregistered).owner == provider_owner
    with ape.reverts("registry: provider is not registered"):
        market.registry.set_offer_open(market.provider, 1, False, sender=provider_owner)


def test_start_cooldown__of_a_staker_without_provider__deregisters_nobody(market: Market, stranger: Any) -> None:
    market.stake(stranger, 5)
    receipt = market.staking.start_cooldown(5, sender=stranger)
    assert not receipt.decode_logs(market.registry.ProviderDeregistered)
