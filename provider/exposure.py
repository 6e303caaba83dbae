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
    """A running request's part in its lease's exposure.

    `cost` is what its receipts say; `gross` what it has consumed before any SLA credit, from admission on at least the
    prompt's price. The credit cap counts the larger.
    """

    max_cost: int
    cost: int = 0
    gross: int = 0

    @property
    def at_risk(self) -> int:
        """What may turn out to be owed for what was done so far."""
        return max(self.cost, self.gross)


@dataclass
class OwnerExposure:
    """Everything one owner owes over all its leases with this provider; they share one credit cap.

    `unloaded` holds the unpaid value of leases that were not used since the start, `active` the leases that run
    requests or owe something.
    """

    unloaded: dict[bytes, int] = field(default_factory=dict)
    active: "set[LeaseExposure]" = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def unpaid_without(self, lease: "LeaseExposure") -> int:
        """Value at risk above the highest vouchers on the other leases; one paid ahead does not cover another."""
        return sum(self.unloaded.values()) + sum(other.unpaid for other in self.active if other is not lease)

    def note(self, lease: "LeaseExposure") -> None:
        """A lease's figures changed."""
        if lease.running or lease.unpaid:
            self.active.add(lease)
        else:
            self.active.discard(lease)

    def notify(self) -> None:
        """Wakes whoever waits for a voucher of this owner."""
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(eq=False)
class LeaseExposure:
    """One lease: `served` and `cumulative` as in the ledger, plus what running requests cost and may still cost.

    Serving ends at `stop_at`, in Unix seconds: early enough before the lease closes to settle what is owed then.
    """

    deposit: int
    credit_cap: int
    served: int
    cumulative: int
    running: dict[int, OpenRequest] = field(default_factory=dict)
    owner: OwnerExposure = field(default_factory=OwnerExposure)
    stop_at: int = 2**64

    def __post_init__(self) -> None:
        self.owner.note(self)

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next payment or end of a request of this owner."""
        return self.owner.changed

    @property
    def value(self) -> int:
        """Everything served so far, running requests included, as receipts charge it."""
        return self.served + sum(request.cost for request in self.running.values())

    @property
    def at_risk(self) -> int:
        """Everything served so far, with what SLA credits and started prompts may still add."""
        return self.served + sum(request.at_risk for request in self.running.values())

    @property
    def unpaid(self) -> int:
        """Value at risk above the highest voucher."""
        return max(0, self.at_risk - self.cumulative)

    @property
    def promised(self) -> int:
        """What running requests may still cost."""
        return sum(max(0, request.max_cost - request.cost) for request in self.running.values())

    @property
    def owed_elsewhere(self) -> int:
        """What the owner owes on its other leases."""
        return self.owner.unpaid_without(self)

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
        if self._exceeds_cap(self.at_risk + prompt_cost - cumulative):
            raise Refusal(
                RefusalCode.PREPAY if self.value <= cumulative else RefusalCode.UNPAID,
                "unpaid value and this prompt together exceed the credit cap: send a higher voucher",
                value_served=str(self.value),
                cumulative=str(cumulative),
                prompt_cost=str(prompt_cost),
                running=str(self.at_risk - self.value),
                owed_on_other_leases=str(self.owed_elsewhere),
                credit_cap=str(self.credit_cap),
            )

    def as_header(self, lease_id: bytes, *, paused: bool) -> Exposure:
        """The live figures as they are sent."""
        return Exposure(lease_id, self.cumulative, self.value, self.credit_cap, paused)

    def begin(self, seq: int, max_cost: int, cost: int = 0) -> OpenRequest:
        """A request starts; `cost` is its prompt's, at risk at once."""
        request = OpenRequest(max_cost, gross=cost)
        self.running[seq] = request
        self.owner.note(self)
        return request

    def finish(self, seq: int, cost: int) -> None:
        """A request ended with its final receipt."""
        del self.running[seq]
        self.served += cost
        self.owner.note(self)
        self.owner.notify()

    def pay(self, cumulative: int) -> None:
        """A voucher arrived."""
        self.cumulative = max(self.cumulative, cumulative)
        self.owner.note(self)
        self.owner.notify()

    def may_serve(self, request: OpenRequest, gross_after: int) -> bool:
        """Whether the request may go on to `gross_after` without the unpaid value passing the credit cap."""
        return not self._exceeds_cap(self.at_risk - request.at_risk + gross_after - self.cumulative)

    def _exceeds_cap(self, unpaid: int) -> bool:
        """What is paid ahead on this lease adds no risk, whatever is owed elsewhere."""
        return unpaid > 0 and unpaid + self.owed_elsewhere > self.credit_cap
