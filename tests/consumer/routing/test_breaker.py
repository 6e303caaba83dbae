"""Cooldowns: one per route and class of failure, doubling, ended by one trial."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from consumer.gateway.events import FailureClass
from consumer.routing.breaker import MAX_RETRY_AFTER_S, RULES, TRIAL_S, Breaker
from tests.consumer.routing.candidates import Clock

COUNTED = sorted(RULES)
OPENING = [failure for failure in COUNTED if RULES[failure].after == 1]


def made() -> tuple[Breaker, Clock]:
    clock = Clock(100.0)
    return Breaker(clock), clock


def left(breaker: Breaker, route: str = "a") -> float:
    found = breaker.cooldown(route)
    return 0.0 if found is None else found.left_s


@pytest.mark.parametrize("failure", OPENING)
def test_failure__cools_down_as_its_class_does__then_one_trial(failure: FailureClass) -> None:
    breaker, clock = made()
    breaker.failed("a", failure)
    assert left(breaker) == RULES[failure].first_s
    assert not breaker.begin("a")
    clock.at += RULES[failure].first_s
    assert breaker.begin("a")
    assert [breaker.begin("a") for _ in range(3)] == [False] * 3
    breaker.succeeded("a")
    assert all(breaker.begin("a") for _ in range(3))


@pytest.mark.parametrize("failure", OPENING)
def test_failing_trials__double_the_cooldown_up_to_its_longest(failure: FailureClass) -> None:
    breaker, clock = made()
    rule = RULES[failure]
    for opening in range(40):
        assert breaker.begin("a")
        breaker.failed("a", failure)
        assert left(breaker) == min(rule.first_s * 2**opening, rule.longest_s)
        clock.at += left(breaker)


def test_many_at_once__count_as_one() -> None:
    breaker, _ = made()
    for _ in range(20):
        breaker.failed("a", FailureClass.OVERLOAD)
    assert left(breaker) == RULES[FailureClass.OVERLOAD].first_s


def test_timeouts__only_several_in_a_row_open() -> None:
    breaker, _ = made()
    for _ in range(10):
        breaker.failed("a", FailureClass.TIMEOUT)
        breaker.failed("a", FailureClass.TIMEOUT)
        assert breaker.begin("a")
        breaker.succeeded("a")
    for _ in range(3):
        assert left(breaker) == 0
        breaker.failed("a", FailureClass.TIMEOUT)
    assert left(breaker) == RULES[FailureClass.TIMEOUT].first_s
    assert breaker.begin("b")


@given(asked=st.floats(-10, 1e9))
def test_retry_after__is_respected_within_bounds(asked: float) -> None:
    breaker, _ = made()
    breaker.failed("a", FailureClass.RATE_LIMIT, asked)
    assert left(breaker) == pytest.approx(
        max(RULES[FailureClass.RATE_LIMIT].first_s, min(asked, MAX_RETRY_AFTER_S)), abs=1e-6
    )


@pytest.mark.parametrize("failure", [FailureClass.MONEY, FailureClass.BAD_REQUEST, FailureClass.OURS])
def test_what_is_not_the_routes_fault__never_opens_and_frees_the_trial(failure: FailureClass) -> None:
    breaker, clock = made()
    for _ in range(50):
        breaker.failed("a", failure, 100.0)
    assert breaker.begin("a")
    breaker.failed("a", FailureClass.AUTH)
    clock.at += left(breaker)
    assert breaker.begin("a")
    breaker.failed("a", failure)
    assert breaker.begin("a")


def test_trial_of_which_nothing_was_heard__another_one_later() -> None:
    breaker, clock = made()
    breaker.failed("a", FailureClass.AUTH)
    clock.at += left(breaker)
    assert breaker.begin("a")
    clock.at += TRIAL_S - 1
    assert not breaker.begin("a")
    clock.at += 1
    assert breaker.begin("a")


def test_success_of_an_older_request__leaves_a_running_cooldown() -> None:
    breaker, _ = made()
    breaker.failed("a", FailureClass.RATE_LIMIT)
    breaker.succeeded("a")
    assert left(breaker) == RULES[FailureClass.RATE_LIMIT].first_s


class Independence(RuleBasedStateMachine):
    """Whatever happens to one class or route, another that is watched alone cools down exactly as if it were alone."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(100.0)
        self.all = Breaker(self.clock)
        self.alone = {failure: Breaker(self.clock) for failure in COUNTED}

    @rule(failure=st.sampled_from(COUNTED), retry=st.none() | st.floats(0, 1_000))
    def fail(self, failure: FailureClass, retry: float | None) -> None:
        self.all.failed("a", failure, retry)
        self.alone[failure].failed("a", failure, retry)

    @rule(failure=st.sampled_from(COUNTED))
    def fail_elsewhere(self, failure: FailureClass) -> None:
        self.all.failed("b", failure)

    @rule()
    def succeed(self) -> None:
        for breaker in (self.all, *self.alone.values()):
            breaker.succeeded("a")

    @rule(seconds=st.floats(0, 1_000))
    def wait(self, seconds: float) -> None:
        self.clock.at += seconds

    @invariant()
    def longest_of_all(self) -> None:
        assert left(self.all) == max(left(breaker) for breaker in self.alone.values())


TestIndependence = Independence.TestCase
