"""How much of each lease is served, paid and promised now: who may start a request, who waits for a voucher.

Amounts in token base units. Everything runs on one event loop.
"""

import asyncio
from dataclasses import dataclass, field

from protocol.headers import Exposure, RefusalCode
from provider.exceptions import Refusal


@dataclass(frozen=True)
class CreditPolicy:
    """How much unpaid value the worker accepts: `stranger` from a new owner, more after settling with that owner."""

    stranger: int
    growth_bps: int = 1_000
    maximum: int = 2**96 - 1

    def cap(self, settled_with_owner: int) -> int:
        """The credit cap for an owner."""
        return min(self.stranger + settled_with_owner * self.growth_bps // 10_000, max(self.maximum, self.stranger))


@dataclass
class OpenRequest:
    """A running request's part in its lease's exposure."""

    max_cost: int
    cost: int = 0


@dataclass
class LeaseExposure:
    """One lease: `served` and `cumulative` as in the ledger, plus what running requests cost and may still cost."""

    deposit: int
    credit_cap: int
    served: int
    cumulative: int
    running: dict[int, OpenRequest] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def value(self) -> int:
        """Everything served so far, running requests included."""
        return self.served + sum(request.cost for request in self.running.values())

    @property
    def unpaid(self) -> int:
        """Value served above the highest voucher."""
        return max(0, self.value - self.cumulative)

    @property
    def promised(self) -> int:
        """What running requests may still cost."""
        return sum(max(0, request.max_cost - request.cost) for request in self.running.values())

    def check_admission(self, max_cost: int, prompt_cost: int, cumulative: int) -> None:
        """Raises Refusal unless a request fits deposit and credit cap; `cumulative` is of the highest voucher."""
        needed = max(self.value, cumulative) + self.promised + max_cost
        if needed > self.deposit:
            raise Refusal(
                RefusalCode.OVERDRAWN,
                f"this request may cost {max_cost}, which the lease's deposit does not cover any more",
                deposit=str(self.deposit),
                needed=str(needed),
            )
        owed = self.value + prompt_cost
        if owed - cumulative > self.credit_cap:
            raise Refusal(
                RefusalCode.PREPAY if self.value <= cumulative else RefusalCode.UNPAID,
                "unpaid value and this prompt together exceed the credit cap: send a higher voucher",
                value_served=str(self.value),
                cumulative=str(cumulative),
                prompt_cost=str(prompt_cost),
                credit_cap=str(self.credit_cap),
            )

    def as_header(self, lease_id: bytes, *, paused: bool) -> Exposure:
        """The live figures as they are sent."""
        return Exposure(lease_id, self.cumulative, self.value, self.credit_cap, paused)

    def begin(self, seq: int, max_cost: int) -> OpenRequest:
        """A request starts."""
        request = OpenRequest(max_cost)
        self.running[seq] = request
        return request

    def finish(self, seq: int, cost: int) -> None:
        """A request ended with its final receipt."""
        del self.running[seq]
        self.served += cost
        self._notify()

    def pay(self, cumulative: int) -> None:
        """A voucher arrived."""
        self.cumulative = max(self.cumulative, cumulative)
        self._notify()

    def may_serve(self, request: OpenRequest, cost_after: int) -> bool:
        """Whether the request may go on to `cost_after` without the unpaid value passing the credit cap."""
        return self.value - request.cost + cost_after - self.cumulative <= self.credit_cap

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Waits until something was paid or finished; False after the timeout."""
        changed = self.changed
        try:
            await asyncio.wait_for(changed.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
