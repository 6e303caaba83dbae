"""The consumer's `[limits]`: what a route must never break.

[limits]
max_price_in = "0.02 USDC per 1K tokens"
max_price_out = "0.06 USDC per 1K tokens"
allow = [1, 2]                   # only these providers
deny = [3]
regions = ["DE", "FR-75"]
tiers = ["dedicated"]
refuses_none_of = ["medical"]    # no provider that refuses to serve these
min_context = 4096
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from protocol.exceptions import InvalidField
from protocol.money import Price, parse_price


def _token_price(text: str) -> str:
    try:
        price = parse_price(text)
    except InvalidField as error:
        raise ValueError(str(error)) from error
    if price.unit != "token":
        raise ValueError("not a price of tokens, such as '0.02 USDC per 1K tokens'")
    return text


TokenPrice = Annotated[str, AfterValidator(_token_price)]
ProviderId = Annotated[int, Field(ge=1)]


class LimitSettings(BaseModel):
    """The table; empty lists allow everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_price_in: TokenPrice | None = None
    max_price_out: TokenPrice | None = None
    allow: tuple[ProviderId, ...] = ()
    deny: tuple[ProviderId, ...] = ()
    regions: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    refuses_none_of: tuple[str, ...] = ()
    min_context: int = Field(default=0, ge=0)

    @property
    def highest_in(self) -> Price | None:
        """`max_price_in`, parsed."""
        return None if self.max_price_in is None else parse_price(self.max_price_in)

    @property
    def highest_out(self) -> Price | None:
        """`max_price_out`, parsed."""
        return None if self.max_price_out is None else parse_price(self.max_price_out)
