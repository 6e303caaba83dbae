"""UsageAnchor.submit. Forged anchors are in test_attacks_signatures.py."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.hashing import keccak
from tests.contracts.ape.checks import only_event
from tests.contracts.ape.market import ZERO32, Market, signer_named

STALE, COUNT, SIGNATURE = 1, 2, 3


def root(count: int) -> bytes:
    return keccak(b"root %d" % count)


def submit(market: Market, *anchors: tuple[Any, ...]) -> Any:
    return market.contracts.usage_anchor.submit(list(anchors), sender=market.stranger)


def latest(count: int) -> bytes:
    return keccak(count.to_bytes(32, "big") + root(count))


def check_latest(market: Market, count: int) -> None:
    assert bytes(market.contracts.usage_anchor.latest(market.provider)) == (latest(count) if count else ZERO32)


def check_reasons(market: Market, receipt: Any, *reasons: int) -> None:
    events = receipt.decode_logs(market.contracts.usage_anchor.AnchorSkipped)
    assert [event.reason for event in events] == list(reasons)


def test_submit__first_and_next__are_recorded_with_their_signatures(market: Market) -> None:
    anchor = market.anchor(5, root(5))
    event = only_event(submit(market, anchor), market.contracts.usage_anchor.Anchored)
    assert (event.count, bytes(event.root), bytes(event.r), bytes(event.vs)) == (5, root(5), *anchor[5:])
    check_latest(market, 5)
    submit(market, market.anchor(6, root(6), (5, root(5))))
    check_latest(market, 6)


def test_submit__same_anchor_again__is_skipped_as_stale(market: Market) -> None:
    anchor = market.anchor(5, root(5))
    check_reasons(market, submit(market, anchor, anchor), STALE)
    check_latest(market, 5)


def test_submit__not_built_on_the_latest__is_skipped_as_stale(market: Market) -> None:
    submit(market, market.anchor(5, root(5)))
    wrong = [(4, root(4)), (5, root(4)), (0, ZERO32), (6, root(5))]
    check_reasons(market, submit(market, *[market.anchor(9, root(9), previous) for previous in wrong]), *[STALE] * 4)
    check_latest(market, 5)


@pytest.mark.parametrize("count", [0, 4, 5, 5 + 2**32 + 1, 2**64 - 1])
def test_submit__count_that_shrinks_stands_or_leaps__is_skipped(market: Market, count: int) -> None:
    submit(market, market.anchor(5, root(5)))
    check_reasons(market, submit(market, market.anchor(count, root(count), (5, root(5)))), COUNT)
    check_latest(market, 5)


def test_submit__largest_step__is_recorded(market: Market) -> None:
    submit(market, market.anchor(5, root(5)))
    check_reasons(market, submit(market, market.anchor(5 + 2**32, root(5 + 2**32), (5, root(5)))))
    check_latest(market, 5 + 2**32)


@pytest.mark.state_row("K2", "K5")
def test_submit__by_a_rotated_key__is_skipped_and_by_the_new_one_recorded(market: Market) -> None:
    fresh = signer_named("fresh node")
    proof = market.sign_node_key(market.provider_owner, fresh)
    market.registry.rotate_node_key(market.provider, fresh.address, *proof, sender=market.provider_owner)
    check_reasons(market, submit(market, market.anchor(5, root(5))), SIGNATURE)
    check_reasons(market, submit(market, market.anchor(5, root(5), signer=fresh)))
    check_latest(market, 5)


def test_submit__many_providers__records_the_good_ones(market: Market, accounts: Any) -> None:
    other = market.second_provider(accounts[4])
    key = signer_named(f"node of {accounts[4].address}")
    batch = [
        market.anchor(3, root(3), provider=other, signer=key),
        market.anchor(4, root(4), provider=other),
        market.anchor(5, root(5)),
    ]
    check_reasons(market, submit(market, *batch), STALE)
    check_latest(market, 5)
    assert bytes(market.contracts.usage_anchor.latest(other)) == latest(3)


@pytest.mark.state_row("K4")
def test_submit__after_deregistration__is_still_recorded(market: Market, provider_owner: Any) -> None:
    market.staking.start_cooldown(1, sender=provider_owner)
    check_reasons(market, submit(market, market.anchor(5, root(5))))
    check_latest(market, 5)
