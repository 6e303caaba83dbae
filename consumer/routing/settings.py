"""The consumer's `[limits]`: what a route must never break.

[limits]
max_price_in = "0.02 USDC per 1K tokens"
max_price_out = "0.06 USDC per 1K tokens"
allow = [1, 2]                   # only these providers
deny = [3]
regions = ["DE", "FR-75"]
tiers = ["dedicated"]
sandboxes = ["gvisor-systrap", "gvisor-ptrace"]
refuses_none_of = ["medical"]    # no provider that refuses to serve these
min_context = 4096
"""

from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator

from consumer.settings import Settings
from protocol.exceptions import InvalidField
from protocol.money import Price, parse_price
from protocol.sandboxes import SandboxTier


def _token_price(value: Any) -> Price:
    if isinstance(value, Price):
        return value
    try:
        price = parse_price(str(value))
    except InvalidField as error:
        raise ValueError(f"{error}: write for example '0.02 USDC per 1K tokens'") from error
    if price.unit != "token":
        raise ValueError("not a price of tokens: write for example '0.02 USDC per 1K tokens'")
    return price


TokenPrice = Annotated[Price, PlainValidator(_token_price), PlainSerializer(str)]
ProviderId = Annotated[int, Field(ge=1)]
PRODUCTION_SANDBOXES = (SandboxTier.GVISOR_SYSTRAP, SandboxTier.GVISOR_PTRACE, SandboxTier.RUNC_SECCOMP)


class LimitSettings(Settings):
    """The table; empty lists allow everything. A price limit also leaves out offers in other tokens.

    Unless it is said otherwise, an offer from a sandbox for development, or from none, is not used.
    """

    max_price_in: TokenPrice | None = None
    max_price_out: TokenPrice | None = None
    allow: tuple[ProviderId, ...] = ()
    deny: tuple[ProviderId, ...] = ()
    regions: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    sandboxes: tuple[SandboxTier, ...] = PRODUCTION_SANDBOXES
    refuses_none_of: tuple[str, ...] = ()
    min_context: int = Field(default=0, ge=0)
