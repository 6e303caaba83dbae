"""Registry: providers, node keys, offers; and that only Staking ends a provider."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import boa
import pytest

from protocol.signing import Signer
from protocol.typed_data import Domain, NodeKey
from tests.contracts.boa.chain import ZERO, account, events, pass_time
from tests.contracts.boa.market import CLAW, DAY, TERMS, ZERO32, Market, Offer, signer, with_offer

MIN_STAKE = 10_000 * CLAW
FOREVER = 2**40 - 1
DIGEST = b"\x11" * 32


def proof(market: Market, owner: str, node: Signer, domain: Domain | None = None) -> tuple[bytes, bytes]:
    """The node key's proof of possession for an owner."""
    return node.sign(domain or market.domain, NodeKey(owner=owner)).compact()


def offer_of(market: Market, **changes: Any) -> Offer:
    """A valid offer in test dollars."""
    return replace(Offer(token=str(market.usdc.address)), **changes)


def test_register__with_stake_and_proof__creates_provider_one(market: Market) -> None:
    owner, node = account("owner"), signer("node")
    market.stake(owner, MIN_STAKE)
    with boa.env.prank(owner):
        provider = market.registry.register(node.address, *proof(market, owner, node), DIGEST)
    assert events(market.registry, "ProviderRegistered") == [(1, owner, node.address, DIGEST)]
    assert provider == market.registry.provider_of(owner) == market.registry.provider_count() == 1
    assert market.registry.owner_of(1) == owner
    assert market.registry.node_key(1) == node.address
    assert market.registry.is_registered(1)
    assert market.registry.metadata_digest(1) == DIGEST
    assert market.registry.key_record(node.address) == (1, market.now(), FOREVER)


def test_register__with_one_unit_too_little__reverts(market: Market) -> None:
    owner, node = account("owner"), signer("node")
    market.stake(owner, MIN_STAKE - 1)
    with boa.env.prank(owner), boa.reverts("registry: stake too low"):
        market.registry.register(node.address, *proof(market, owner, node), DIGEST)


def test_register__with_the_stake_in_cooldown__reverts(market: Market) -> None:
    owner, node = account("owner"), signer("node")
    market.stake(owner, MIN_STAKE)
    with boa.env.prank(owner):
        market.staking.start_cooldown(1)
        with boa.reverts("registry: stake too low"):
            market.registry.register(node.address, *proof(market, owner, node), DIGEST)


def test_register__twice__reverts(market: Market) -> None:
    owner, second = account("owner"), signer("second")
    market.register(owner, signer("first"))
    with boa.env.prank(owner), boa.reverts("registry: already registered"):
        market.registry.register(second.address, *proof(market, owner, second), DIGEST)


def test_register__with_a_key_used_before__reverts(market: Market) -> None:
    node, thief = signer("node"), account("thief")
    market.register(account("owner"), node)
    market.stake(thief, MIN_STAKE)
    with boa.env.prank(thief), boa.reverts("registry: node key was used before"):
        market.registry.register(node.address, *proof(market, thief, node), DIGEST)


@pytest.mark.parametrize("flaw", ["another owner", "another key", "another escrow", "another chain", "zero", "parity"])
def test_register__without_possession_of_the_key__reverts(market: Market, flaw: str) -> None:
    owner, node = account("owner"), signer("node")
    market.stake(owner, MIN_STAKE)
    r, vs = {
        "another owner": lambda: proof(market, account("thief"), node),
        "another key": lambda: proof(market, owner, signer("another")),
        "another escrow": lambda: proof(market, owner, node, Domain(market.domain.chain_id, owner)),
        "another chain": lambda: proof(market, owner, node, Domain(market.domain.chain_id + 1, market.domain.escrow)),
        "zero": lambda: (ZERO32, ZERO32),
        "parity": lambda: _flip_parity(*proof(market, owner, node)),
    }[flaw]()
    with boa.env.prank(owner), boa.reverts("registry: bad node key signature"):
        market.registry.register(node.address, r, vs, DIGEST)


def test_register__after_a_fork_of_the_chain__needs_the_live_chain_id(market: Market) -> None:
    owner, node = account("owner"), signer("node")
    market.stake(owner, MIN_STAKE)
    before = boa.env.evm.patch.chain_id
    boa.env.evm.patch.chain_id = before + 1
    try:
        with boa.env.prank(owner):
            with boa.reverts("registry: bad node key signature"):
                market.registry.register(node.address, *proof(market, owner, node), DIGEST)
            forked = Domain(before + 1, market.domain.escrow)
            market.registry.register(node.address, *proof(market, owner, node, forked), DIGEST)
    finally:
        boa.env.evm.patch.chain_id = before


def test_register__with_the_zero_key__reverts(market: Market) -> None:
    owner = account("owner")
    market.stake(owner, MIN_STAKE)
    with boa.env.prank(owner), boa.reverts("registry: node key is zero"):
        market.registry.register(ZERO, ZERO32, ZERO32, DIGEST)


def test_register__after_deregistration__gives_a_new_id(market: Market) -> None:
    owner, node = account("owner"), signer("second")
    market.register(owner, signer("first"))
    with boa.env.prank(owner):
        market.staking.start_cooldown(1)
    market.stake(owner, 1)
    with boa.env.prank(owner):
        pass_time(6 * DAY - 1)
        with boa.reverts("registry: leases of the former id still run"):
            market.registry.register(node.address, *proof(market, owner, node), DIGEST)
        pass_time(1)
        assert market.registry.register(node.address, *proof(market, owner, node), DIGEST) == 2
    assert market.registry.provider_of(owner) == 2
    assert not market.registry.is_registered(1)
    assert market.registry.is_registered(2)
    assert market.registry.owner_of(1) == market.registry.owner_of(2) == owner


def test_deregister__by_a_cooldown__keeps_owner_and_key(market: Market) -> None:
    owner, provider, node = with_offer(market)
    with boa.env.prank(owner):
        market.staking.start_cooldown(1)
    assert not market.registry.is_registered(provider)
    assert market.registry.provider_of(owner) == 0
    assert market.registry.owner_of(provider) == owner
    assert market.registry.node_key(provider) == node.address
    assert market.registry.key_record(node.address)[2] == FOREVER
    assert not market.registry.lease_offer(provider, 1).is_registered
    assert market.escrow.leases_end(provider) == market.now() + 6 * DAY


@pytest.mark.parametrize("who", ["owner", "stranger", "admin"])
def test_deregister__by_anybody_but_staking__reverts(market: Market, who: str) -> None:
    owner, _, _ = with_offer(market)
    caller = {"owner": owner, "stranger": account("stranger"), "admin": market.admin}[who]
    with boa.env.prank(caller), boa.reverts("registry: caller is not Staking"):
        market.registry.deregister(owner)


def test_deregister__by_staking__logs_it(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    with boa.env.prank(market.staking.address):
        market.registry.deregister(owner)
        assert events(market.registry, "ProviderDeregistered") == [(provider, owner)]
        market.registry.deregister(owner)
    assert events(market.registry, "ProviderDeregistered") == []


def test_deregister__without_a_provider__does_nothing(market: Market) -> None:
    with boa.env.prank(market.staking.address):
        market.registry.deregister(account("nobody"))
    assert events(market.registry, "ProviderDeregistered") == []


def test_rotate_node_key__with_a_fresh_key__ends_the_old_one_now(market: Market) -> None:
    owner, provider, node = with_offer(market)
    registered_at, new = market.now(), signer("new node")
    pass_time(1_000)
    with boa.env.prank(owner):
        market.registry.rotate_node_key(provider, new.address, *proof(market, owner, new))
    assert events(market.registry, "NodeKeyRotated") == [(provider, node.address, new.address)]
    assert market.registry.node_key(provider) == new.address
    assert market.registry.key_record(node.address) == (provider, registered_at, market.now())
    assert market.registry.key_record(new.address) == (provider, market.now(), FOREVER)


def test_rotate_node_key__back_to_an_old_key__reverts(market: Market) -> None:
    owner, provider, node = with_offer(market)
    new = signer("new node")
    with boa.env.prank(owner):
        market.registry.rotate_node_key(provider, new.address, *proof(market, owner, new))
        for key in (node, new):
            with boa.reverts("registry: node key was used before"):
                market.registry.rotate_node_key(provider, key.address, *proof(market, owner, key))


def test_rotate_node_key__after_deregistration__still_works(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    new = signer("new node")
    with boa.env.prank(owner):
        market.staking.start_cooldown(1)
        market.registry.rotate_node_key(provider, new.address, *proof(market, owner, new))
    assert market.registry.node_key(provider) == new.address


def test_rotate_node_key__by_a_stranger__reverts(market: Market) -> None:
    _, provider, _ = with_offer(market)
    stranger, new = account("stranger"), signer("new node")
    with boa.env.prank(stranger), boa.reverts("registry: caller is not the owner"):
        market.registry.rotate_node_key(provider, new.address, *proof(market, stranger, new))


def test_set_metadata__by_the_owner__replaces_the_digest(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    with boa.env.prank(owner):
        market.registry.set_metadata(provider, DIGEST)
    assert events(market.registry, "MetadataChanged") == [(provider, DIGEST)]
    assert market.registry.metadata_digest(provider) == DIGEST


@pytest.mark.parametrize("provider", [0, 1, 2])
def test_set_metadata__by_a_stranger_or_unknown__reverts(market: Market, provider: int) -> None:
    with_offer(market)
    with boa.env.prank(account("stranger")), boa.reverts("registry: caller is not the owner"):
        market.registry.set_metadata(provider, DIGEST)


@pytest.mark.parametrize("kind", range(5))
def test_create_offer__of_every_kind__is_version_one_and_open(market: Market, kind: int) -> None:
    owner, provider, _ = with_offer(market)
    offer = offer_of(
        market,
        kind=kind,
        min_deposit=2**96 - 1,
        max_duration=2**40 - 1,
        close_delay_min=3_601,
        close_delay_max=6 * DAY - 1,
        max_active=2**32 - 1,
    )
    assert market.create_offer(owner, provider, offer) == 2
    assert market.registry.offer_count(provider) == 2
    stored, version, is_open = market.registry.offer(provider, 2)
    assert (tuple(stored), version, is_open) == (offer.as_tuple(), 1, True)
    lease = market.registry.lease_offer(provider, 2)
    assert tuple(lease) == (owner, True, True, 1, *offer.as_tuple())


def test_create_offer__logs_the_whole_offer(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    offer = offer_of(market, kind=3, min_deposit=7)
    market.create_offer(owner, provider, offer)
    ((logged_provider, offer_id, version, logged),) = events(market.registry, "OfferCreated")
    assert (logged_provider, offer_id, version, tuple(logged)) == (provider, 2, 1, offer.as_tuple())


INVALID: dict[str, dict[str, Any]] = {
    "registry: unknown offer kind": {"kind": 5},
    "registry: terms digest is zero": {"terms_digest": ZERO32},
    "registry: maximum duration is zero": {"max_duration": 0},
    "registry: maximum of active leases is zero": {"max_active": 0},
    "registry: close delay below 1 hour": {"close_delay_min": 3_599},
    "registry: close delay above 6 days": {"close_delay_max": 6 * DAY + 1},
    "registry: close delays out of order": {"close_delay_min": 7_201, "close_delay_max": 7_200},
    "registry: token is not listed": {"token": ZERO},
}


@pytest.mark.parametrize("reason", INVALID)
@pytest.mark.parametrize("action", ["create_offer", "update_offer"])
def test_offers__invalid__are_refused(market: Market, action: str, reason: str) -> None:
    owner, provider, _ = with_offer(market)
    offer = offer_of(market, **INVALID[reason]).as_tuple()
    args = (provider, offer) if action == "create_offer" else (provider, 1, offer)
    with boa.env.prank(owner), boa.reverts(reason):
        getattr(market.registry, action)(*args)
    assert market.registry.offer_count(provider) == 1


def test_update_offer__raises_the_version_and_keeps_it_paused(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    offer = offer_of(market, terms_digest=DIGEST, kind=4)
    with boa.env.prank(owner):
        market.registry.set_offer_open(provider, 1, False)
        assert events(market.registry, "OfferOpenChanged") == [(provider, 1, False)]
        market.registry.update_offer(provider, 1, offer.as_tuple())
    ((_, _, version, logged),) = events(market.registry, "OfferUpdated")
    assert (version, tuple(logged)) == (2, offer.as_tuple())
    stored, version, is_open = market.registry.offer(provider, 1)
    assert (tuple(stored), version, is_open) == (offer.as_tuple(), 2, False)


def test_set_offer_open__off_and_on__changes_nothing_else(market: Market) -> None:
    owner, provider, _ = with_offer(market)
    before = tuple(market.registry.offer(provider, 1)[0])
    with boa.env.prank(owner):
        for is_open in (False, False, True, True):
            market.registry.set_offer_open(provider, 1, is_open)
            stored, version, now_open = market.registry.offer(provider, 1)
            assert (tuple(stored), version, now_open) == (before, 1, is_open)


@pytest.mark.parametrize("offer_id", [0, 2])
def test_offers__unknown__are_refused(market: Market, offer_id: int) -> None:
    owner, provider, _ = with_offer(market)
    with boa.env.prank(owner):
        with boa.reverts("registry: no such offer"):
            market.registry.update_offer(provider, offer_id, offer_of(market).as_tuple())
        with boa.reverts("registry: no such offer"):
            market.registry.set_offer_open(provider, offer_id, True)
    lease = market.registry.lease_offer(provider, offer_id)
    assert (lease.version, lease.is_open, lease.terms_digest) == (0, False, ZERO32)


@pytest.mark.parametrize(
    ("caller", "reason"),
    [("stranger", "registry: caller is not the owner"), ("former", "registry: provider is not registered")],
)
@pytest.mark.parametrize("action", ["create_offer", "update_offer", "set_offer_open"])
def test_offers__not_by_an_active_owner__are_refused(market: Market, action: str, caller: str, reason: str) -> None:
    owner, provider, _ = with_offer(market)
    if caller == "former":
        with boa.env.prank(owner):
            market.staking.start_cooldown(1)
    args = {
        "create_offer": (provider, offer_of(market).as_tuple()),
        "update_offer": (provider, 1, offer_of(market).as_tuple()),
        "set_offer_open": (provider, 1, False),
    }[action]
    with boa.env.prank(owner if caller == "former" else account("stranger")), boa.reverts(reason):
        getattr(market.registry, action)(*args)


def test_offers__of_two_providers__do_not_mix(market: Market) -> None:
    _, first, _ = with_offer(market, "first", min_deposit=1)
    _, second, _ = with_offer(market, "second", min_deposit=2)
    assert market.registry.lease_offer(first, 1).min_deposit == 1
    assert market.registry.lease_offer(second, 1).min_deposit == 2
    assert market.registry.lease_offer(first, 1).terms_digest == TERMS


def _flip_parity(r: bytes, vs: bytes) -> tuple[bytes, bytes]:
    return r, bytes([vs[0] ^ 0x80]) + vs[1:]
