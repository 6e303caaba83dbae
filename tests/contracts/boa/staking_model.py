"""What Staking should hold, computed apart from it: integers as its interface documents them, shares as fractions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from tests.contracts.boa.market import CLAW, DAY

WEEK = 7 * DAY
BPS = 10_000
MIN_STAKE = 10_000 * CLAW
SLASH_EVENT_BPS = 1_000
SLASH_CONTRADICTION_BPS = 5_000
SLASH_DAY_BPS = 5_000
MAX_FILER_BPS = 1_000


@dataclass
class StreamModel:
    """One reward token: amounts in its base units, times in seconds."""

    updated_at: int
    left: int = 0
    seconds_left: int = 0
    received: int = 0
    paid: int = 0
    is_streamed: bool = False
    owed: dict[str, Fraction] = field(default_factory=dict)

    def release(self, now: int, active: dict[str, int]) -> None:
        """Share out what fell due since the last call; nothing falls due while nobody has stake."""
        total = sum(active.values())
        if total and self.seconds_left:
            elapsed = min(now - self.updated_at, self.seconds_left)
            amount = self.left * elapsed // self.seconds_left
            self.left -= amount
            self.seconds_left -= elapsed
            for account, stake in active.items():
                if stake:
                    self.owed[account] = self.owed.get(account, Fraction(0)) + Fraction(amount * stake, total)
        self.updated_at = now

    def add(self, now: int, active: dict[str, int], amount: int) -> None:
        """A new amount joins the stream by its own weight."""
        self.release(now, active)
        self.seconds_left = (self.left * self.seconds_left + amount * WEEK) // (self.left + amount)
        self.left += amount
        self.received += amount
        self.is_streamed = True

    def credit(self, account: str, amount: int) -> None:
        """An amount for one account at once."""
        self.received += amount
        self.owed[account] = self.owed.get(account, Fraction(0)) + amount

    def pay(self, account: str, amount: int) -> None:
        """The account was paid this much."""
        self.paid += amount
        self.owed[account] = self.owed.get(account, Fraction(0)) - amount


@dataclass
class StakingModel:
    """All stakes, votes and punished facts."""

    streams: dict[str, StreamModel]
    active: dict[str, int] = field(default_factory=dict)
    cooling: dict[str, tuple[int, int]] = field(default_factory=dict)
    delegate: dict[str, str | None] = field(default_factory=dict)
    slashed_on: dict[tuple[str, int], int] = field(default_factory=dict)
    facts: set[bytes] = field(default_factory=set)
    donated: int = 0

    def set_active(self, now: int, account: str, stake: int) -> None:
        """Change an active stake; the rewards so far go by the old one."""
        for stream in self.streams.values():
            if stream.is_streamed:
                stream.release(now, self.active)
        self.active[account] = stake

    def start_cooldown(self, now: int, account: str, amount: int, cooldown: int) -> None:
        """Move stake into the account's one cooldown, whose end never comes nearer."""
        self.set_active(now, account, self.active[account] - amount)
        cooling, until = self.cooling.get(account, (0, 0))
        self.cooling[account] = (cooling + amount, max(until, now + cooldown))

    def slash(self, now: int, account: str, bps: int, *, is_contradiction: bool) -> int:
        """Take the capped share, active and cooling pro rata; returns the amount."""
        active = self.active.get(account, 0)
        cooling, until = self.cooling.get(account, (0, 0))
        whole = active + cooling
        today = self.slashed_on.get((account, now // DAY), 0)
        cap = SLASH_CONTRADICTION_BPS if is_contradiction else SLASH_EVENT_BPS
        room = max(0, (whole + today) * SLASH_DAY_BPS // BPS - today)
        amount = min(whole * min(bps, cap) // BPS, room)
        from_active = amount * active // whole if whole else 0
        if from_active:
            self.set_active(now, account, active - from_active)
        self.cooling[account] = (cooling - (amount - from_active), until)
        self.slashed_on[account, now // DAY] = today + amount
        return amount

    def votes(self, account: str) -> int:
        """The active stake of all who chose this account, itself included unless it chose otherwise."""
        return sum(stake for owner, stake in self.active.items() if self.delegate.get(owner, owner) == account)

    def abstained(self) -> int:
        """The active stake of those who delegated to nobody."""
        return sum(stake for owner, stake in self.active.items() if self.delegate.get(owner, owner) is None)

    def total_active(self) -> int:
        """Sum of all active stakes."""
        return sum(self.active.values())

    def total_cooling(self) -> int:
        """Sum of all stakes in cooldown."""
        return sum(amount for amount, _ in self.cooling.values())
