"""Eight stakers, three reward tokens and time travel against `StakingModel`.

Every step checks the sums, two accounts in turn and, every third step, one token in turn; the end of every example
checks all accounts, all tokens and the votes at the last eight times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import boa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.contracts.boa.market import CLAW, CONTRACTS, DAY, Market, deployer, signer
from tests.contracts.boa.mutation import SETTINGS, Machine, hold
from tests.contracts.boa.staking_model import BPS, MAX_FILER_BPS, MIN_STAKE, WEEK, StakingModel, StreamModel

START = 1_800_000_000
COOLDOWN_KEY = 4
FUNDS = 100_000 * CLAW
PROVIDERS = 3
ZERO = "0x" + "00" * 20

ACTORS = st.integers(0, 7)
TOKENS = st.integers(0, 2)
AMOUNTS = st.one_of(st.integers(1, 10), st.integers(1, 3 * 10**7), st.integers(MIN_STAKE // 2, 3 * MIN_STAKE))
TIMES = st.sampled_from([1, 12, 3_600, DAY, 3 * DAY, WEEK, 22 * DAY, 40 * DAY])
FACTS = st.integers(0, 20).map(lambda number: number.to_bytes(32, "big"))


@dataclass(frozen=True)
class Past:
    """The votes at the end of one second."""

    timepoint: int
    votes: tuple[int, ...]
    stakes: tuple[int, ...]
    total: int


class Setting:
    """A market with eight funded accounts, the first three of them providers."""

    def __init__(self, sources: Path) -> None:
        boa.env.evm.patch.timestamp = START
        self.market = Market(sources)
        with boa.env.prank(self.market.admin):
            dai = deployer(CONTRACTS, "ClawToken").deploy()
            self.market.params.list_token(dai.address, True)
        self.tokens: list[Any] = [self.market.usdc, dai, self.market.claw]
        self.actors = [str(boa.env.generate_address(f"actor {number}")) for number in range(8)]
        for actor in self.actors:
            self.market.give(self.market.claw, actor, FUNDS)
        self.providers = {
            actor: self.market.register(actor, signer(f"node {number}"), stake=MIN_STAKE)
            for number, actor in enumerate(self.actors[:PROVIDERS])
        }


class StakingMachine(Machine):
    """Rules are what any account may do; expectations come from the model."""

    run_settings = settings(SETTINGS, max_examples=12, stateful_step_count=30)
    setting: ClassVar[Setting]

    @classmethod
    def prepare(cls) -> None:
        """Deploy once; every example starts from there."""
        cls.setting = Setting(cls.sources)

    def __init__(self) -> None:
        super().__init__()
        setting = self.setting
        self.anchor = boa.env.anchor()
        self.anchor.__enter__()
        boa.env.evm.patch.timestamp = START
        self.market, self.tokens, self.actors = setting.market, setting.tokens, setting.actors
        self.staking = self.market.staking
        self.model = StakingModel({str(token.address): StreamModel(START) for token in self.tokens})
        self.model.active = dict.fromkeys(self.actors[:PROVIDERS], MIN_STAKE)
        self.claw_stream = self.model.streams[str(self.market.claw.address)]
        self.providers = dict(setting.providers)
        self.cooldown = 21 * DAY
        self.cooldown_changed = 0
        self.past: list[Past] = []
        self.steps = 0

    def teardown(self) -> None:
        """Check everything once more."""
        try:
            for actor in self.actors:
                self._check_account(actor)
            for token in self.tokens:
                self._check_shares(token)
            for past in self.past[-8:]:
                self._check_past(past)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Forget this example's chain."""
        self.anchor.__exit__(None, None, None)

    @rule(actor=ACTORS, amount=AMOUNTS)
    def stake(self, actor: int, amount: int) -> None:
        account = self.actors[actor]
        amount = min(amount, self.market.claw.balanceOf(account))
        if amount == 0:
            return
        with boa.env.prank(account):
            self.staking.stake(amount)
        self.model.set_active(self._now(), account, self.model.active.get(account, 0) + amount)

    @rule(actor=ACTORS, share=st.sampled_from([1, 100, 5_000, BPS]))
    def start_cooldown(self, actor: int, share: int) -> None:
        account = self.actors[actor]
        amount = max(1, self.model.active.get(account, 0) * share // BPS)
        if self.model.active.get(account, 0) == 0:
            return
        with boa.env.prank(account):
            self.staking.start_cooldown(amount)
        self.model.start_cooldown(self._now(), account, amount, self.cooldown)
        if self.model.active[account] < MIN_STAKE:
            self.providers.pop(account, None)

    @rule(actor=ACTORS)
    def wait_out_the_cooldown(self, actor: int) -> None:
        _, until = self.model.cooling.get(self.actors[actor], (0, 0))
        self._withdraw(self.actors[actor])
        for timepoint in (until - 1, until):
            if timepoint > self._now():
                self.pass_time(timepoint - self._now())
            self._withdraw(self.actors[actor])

    @rule(actor=ACTORS, amount=AMOUNTS)
    def stake_and_cool_in_one_block(self, actor: int, amount: int) -> None:
        self.stake(actor, amount)
        self.start_cooldown(actor, BPS)

    @rule(token=TOKENS, amount=AMOUNTS, donation=AMOUNTS)
    def pull_fees(self, token: int, amount: int, donation: int = 1) -> None:
        contract = self.tokens[token]
        with boa.env.prank(self.market.admin):
            contract.approve(self.market.escrow.address, amount)
            self.market.escrow.deposit(contract.address, amount, self.staking.address)
            self.market.claw.transfer(self.staking.address, donation)
        self.model.donated += donation
        hold("reward books", self.staking.pull_fees(contract.address) == amount, "not all fees arrived")
        self.model.streams[str(contract.address)].add(self._now(), self.model.active, amount)
        hold("reward books", self.staking.pull_fees(contract.address) == 0, "fees out of nothing")

    @rule(actor=ACTORS, token=TOKENS)
    def claim(self, actor: int, token: int) -> None:
        account, contract = self.actors[actor], self.tokens[token]
        stream = self.model.streams[str(contract.address)]
        stream.release(self._now(), self.model.active)
        due = int(stream.owed.get(account, 0))
        before = contract.balanceOf(account)
        with boa.env.prank(account):
            amount = self.staking.claim(contract.address, account)
        hold("reward shares", due - 1 <= amount <= due, f"claimed {amount}, due {due}")
        hold("reward books", contract.balanceOf(account) - before == amount, "another amount moved")
        stream.pay(account, amount)

    @rule(actor=ACTORS, other=st.one_of(st.none(), ACTORS))
    def delegate(self, actor: int, other: int | None) -> None:
        self.stake(actor, MIN_STAKE)
        account = self.actors[actor]
        delegatee = None if other is None else self.actors[other]
        with boa.env.prank(account):
            self.staking.delegate(delegatee or ZERO)
        self.model.delegate[account] = delegatee

    @rule(
        actor=ACTORS,
        first=FACTS,
        times=st.sampled_from([1, 3]),
        bps=st.sampled_from([1, 500, BPS, BPS]),
        is_contradiction=st.booleans(),
        filer=st.one_of(st.none(), ACTORS),
        filer_bps=st.sampled_from([0, 777, 1_000, BPS]),
    )
    def slash(
        self, actor: int, first: bytes, times: int, bps: int, is_contradiction: bool, filer: int | None, filer_bps: int
    ) -> None:
        stranger = self.actors[(actor + 1) % len(self.actors)]
        call = (b"\xff" * 32, self.actors[0], 100, False, ZERO, 0)
        hold("slash caller", not succeeds(self.staking.slash, *call, sender=stranger), "a stranger slashed")
        self.stake(actor, MIN_STAKE)
        account = self.actors[actor]
        whom = None if filer is None else self.actors[filer]
        for number in range(times):
            fact = (int.from_bytes(first, "big") + number).to_bytes(32, "big")
            for _ in range(2):
                self._slash_once(fact, account, bps, is_contradiction, whom, filer_bps)

    @precondition(lambda self: self._now() - self.cooldown_changed >= WEEK)
    @rule(actor=ACTORS)
    def cool_across_a_change_of_the_cooldown(self, actor: int) -> None:
        self.stake(actor, MIN_STAKE)
        self.start_cooldown(actor, BPS // 2)
        self.cooldown = 28 * DAY if self.cooldown == 21 * DAY else 21 * DAY
        with boa.env.prank(self.market.admin):
            self.market.params.set(COOLDOWN_KEY, self.cooldown)
        self.cooldown_changed = self._now()
        self.start_cooldown(actor, 1)

    @rule(actor=ACTORS, seconds=TIMES)
    def earn_claim_cool(self, actor: int, seconds: int) -> None:
        self.stake(actor, MIN_STAKE)
        self.pull_fees(0, MIN_STAKE)
        self.pass_time(seconds)
        self.pull_fees(0, 1)
        self.claim(actor, 0)
        self.start_cooldown(actor, BPS // 2)

    @rule(actor=ACTORS, seconds=TIMES)
    def everybody_leaves_and_one_comes_back(self, actor: int, seconds: int) -> None:
        self.pull_fees(1, MIN_STAKE)
        for number in range(len(self.actors)):
            self.start_cooldown(number, BPS)
        self.pass_time(seconds)
        self.stake(actor, MIN_STAKE)

    @rule(seconds=TIMES)
    def pass_time(self, seconds: int) -> None:
        now = self._now()
        hold("past votes", not succeeds(self.staking.getPastVotes, self.actors[0], now), "the present can be read")
        self.past.append(
            Past(
                now,
                tuple(self.model.votes(actor) for actor in self.actors),
                tuple(self.model.active.get(actor, 0) for actor in self.actors),
                self.model.total_active(),
            )
        )
        boa.env.evm.patch.timestamp = now + seconds
        self._check_past(self.past[len(self.past) // 2])

    @invariant()
    def stakes_match(self) -> None:
        self.steps += 1
        hold("stake books", self.staking.total_active() == self.model.total_active(), "total active")
        hold("stake books", self.staking.total_cooling() == self.model.total_cooling(), "total cooling")
        for number in (self.steps, self.steps + 3):
            self._check_account(self.actors[number % len(self.actors)])

    @invariant()
    def claw_is_backed(self) -> None:
        booked = self.staking.booked_rewards(self.market.claw.address)
        balance = self.market.claw.balanceOf(self.staking.address)
        needed = self.model.total_active() + self.model.total_cooling() + booked
        hold("claw backing", needed + self.model.donated == balance, f"{needed} booked, {balance} there")

    @invariant()
    def rewards_match(self) -> None:
        if self.steps % 3 == 0:
            self._check_shares(self.tokens[self.steps // 3 % len(self.tokens)])

    @invariant()
    def votes_add_up(self) -> None:
        total = self.model.abstained() + sum(self.staking.getVotes(actor) for actor in self.actors)
        hold("votes", total == self.model.total_active(), f"{total} votes of {self.model.total_active()}")

    @invariant()
    def providers_match(self) -> None:
        for number, actor in enumerate(self.actors[:PROVIDERS]):
            provider = self.market.registry.provider_of(actor)
            hold("registration", provider == self.providers.get(actor, 0), f"provider {number} is {provider}")

    def _withdraw(self, account: str) -> None:
        amount, until = self.model.cooling.get(account, (0, 0))
        before = self.market.claw.balanceOf(account)
        may = amount != 0 and self._now() >= until
        did = succeeds(self.staking.withdraw, account, sender=account)
        hold("cooldown", did == may, f"withdrawn at {self._now()}, due at {until}")
        if did:
            hold("cooldown", self.market.claw.balanceOf(account) - before == amount, "wrong amount withdrawn")
            self.model.cooling[account] = (0, until)

    def _check_account(self, actor: str) -> None:
        hold("stake books", self.staking.active_stake(actor) == self.model.active.get(actor, 0), actor)
        amount, until = self.staking.cooling(actor)
        expected = self.model.cooling.get(actor, (0, 0))
        hold("stake books", amount == expected[0], f"cooling {amount} instead of {expected[0]}")
        hold("cooldown", amount == 0 or until == expected[1], f"until {until} instead of {expected[1]}")
        votes = self.staking.getVotes(actor)
        hold("votes", votes == self.model.votes(actor), f"{actor} holds {votes} votes")

    def _slash_once(
        self, fact: bytes, account: str, bps: int, is_contradiction: bool, filer: str | None, filer_bps: int
    ) -> None:
        call = (fact, account, bps, is_contradiction, filer or ZERO, filer_bps)
        if fact in self.model.facts:
            did = succeeds(self.staking.slash, *call, sender=self.market.arbitration)
            hold("slash once", not did, "one fact slashed twice")
            return
        with boa.env.prank(self.market.arbitration):
            amount = self.staking.slash(*call)
        self.model.facts.add(fact)
        expected = self.model.slash(self._now(), account, bps, is_contradiction=is_contradiction)
        hold("slashes", amount == expected, f"slashed {amount} instead of {expected}")
        hold("slashes", self.staking.cooling(account)[0] == self.model.cooling[account][0], "not pro rata")
        if filer is not None:
            self.claw_stream.credit(filer, amount * min(filer_bps, MAX_FILER_BPS) // BPS)

    def _check_past(self, past: Past) -> None:
        for actor, votes, stake in zip(self.actors, past.votes, past.stakes, strict=True):
            hold("past votes", self.staking.getPastVotes(actor, past.timepoint) == votes, past.timepoint)
            hold("past votes", self.staking.getPastStake(actor, past.timepoint) == stake, past.timepoint)
        hold("past votes", self.staking.getPastTotalSupply(past.timepoint) == past.total, past.timepoint)

    def _check_shares(self, token: Any) -> None:
        stream = self.model.streams[str(token.address)]
        booked = self.staking.booked_rewards(token.address)
        hold("reward books", stream.received - stream.paid == booked, f"booked {booked}")
        hold("reward books", token.balanceOf(self.staking.address) >= booked, "booked more than there is")
        now = replace(stream, owed=dict(stream.owed))
        now.release(self._now(), self.model.active)
        left, seconds_left = self.staking.stream(token.address)
        hold("reward stream", (left, seconds_left) == (now.left, now.seconds_left), (left, seconds_left))
        total = 0
        for actor in self.actors:
            earned = self.staking.earned(actor, token.address)
            due = int(now.owed.get(actor, 0))
            hold("reward shares", due - 1 <= earned <= due, f"earned {earned}, due {due}")
            total += earned
        hold("reward books", total + left <= booked, f"{total} claimable and {left} to come out of {booked}")

    def _now(self) -> int:
        return self.market.now()


def succeeds(function: Any, *args: Any, sender: str = ZERO) -> bool:
    """Whether the call goes through; without the error report that boa takes a tenth of a second to write."""
    computation = boa.env.execute_code(
        function.contract.address, sender=sender, data=function.prepare_calldata(*args), is_modifying=True
    )
    return not computation.is_error
