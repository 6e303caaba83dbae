"""The sections `[budget]` and `[leases]` of the configuration."""

from typing import Self

from pydantic import Field, model_validator

from consumer.settings import Amount, Settings
from consumer.spending.allowance import Allowance, AllowanceField
from protocol.money import BPS, USDC, Money


class BudgetSettings(Settings):
    """Hard limits for one day (UTC), in all and for single models."""

    per_day: AllowanceField = Allowance((Money(5 * 10**USDC.decimals, USDC),))
    models: dict[str, AllowanceField] = Field(default_factory=dict)


class LeaseSettings(Settings):
    """How leases are opened: each with `amount` for `days`, in all at most `max_locked` of its token.

    A lease is topped up to `amount` when less than the part `top_up_below` of its deposit is left. Only offers priced
    in the token of these amounts are taken.
    """

    amount: Amount = Money(2 * 10**USDC.decimals, USDC)
    days: float = Field(default=7.0, ge=0.05, le=365)
    top_up_below: float = Field(default=0.25, ge=0, le=0.9)
    max_locked: Amount = Money(10 * 10**USDC.decimals, USDC)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.amount.token != self.max_locked.token:
            raise ValueError("amount and max_locked are of one token")
        if self.max_locked < self.amount:
            raise ValueError("amount is more than max_locked")
        return self

    @property
    def duration_s(self) -> int:
        """How long a lease runs."""
        return int(self.days * 86_400)

    def is_low(self, room: int, deposit: int) -> bool:
        """Whether a lease with this room is to be topped up."""
        return room * BPS < deposit * int(self.top_up_below * BPS)
