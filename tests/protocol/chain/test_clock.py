"""The market's clock: whom it believes, and that it recovers."""

import pytest

from protocol.chain.clock import MAX_AHEAD_S, MarketClock
from protocol.chain.deployments import Profile

OWN = 1_000_000


class Own:
    def __init__(self) -> None:
        self.time = float(OWN)

    def __call__(self) -> float:
        return self.time


def test_own_clock_rules_before_any_head_and_over_a_lagging_one() -> None:
    clock = MarketClock(60, Own())
    assert (clock.now(), clock.block_time()) == (OWN, OWN)
    assert clock.update(OWN - 12)
    assert (clock.now(), clock.block_time()) == (OWN, OWN - 12)


def test_head_too_far_ahead_is_not_believed_and_the_next_one_is() -> None:
    clock = MarketClock(60, Own())
    assert clock.update(OWN + 60)
    assert clock.now() == OWN + 60
    assert not clock.update(OWN + 61)
    assert (clock.now(), clock.block_time()) == (OWN, OWN)
    assert clock.update(OWN - 1)
    assert clock.block_time() == OWN - 1


def test_development_chain_may_move_time_and_come_back() -> None:
    own = Own()
    clock = MarketClock(None, own)
    assert clock.update(OWN + 10**9)
    own.time += 5
    assert (clock.now(), clock.block_time()) == (OWN + 10**9 + 5, OWN + 10**9)
    clock.update(OWN)
    assert clock.now() == OWN + 5


@pytest.mark.parametrize(
    ("profile", "believed"), [(Profile("anvil", 1), True), (Profile("base", finality_tag="finalized"), False)]
)
def test_only_development_networks_are_unbounded(profile: Profile, believed: bool) -> None:
    clock = MarketClock.of(profile)
    assert clock.update(clock.now() + 10 * MAX_AHEAD_S) is believed
