"""`ape run fund`: what it is asked for. That it gives is in the README's session."""

import pytest

from protocol.exceptions import InvalidField
from scripts.fund import parse_grant

RECEIVER = "0x" + "11" * 20


@pytest.mark.parametrize(
    ("amount", "units"), [("1 ETH", 10**18), ("0.5 CLAW", 5 * 10**17), ("50 USDC", 50_000_000), ("0 USDC", 0)]
)
def test_parse_grant__amount__is_in_base_units(amount: str, units: int) -> None:
    receiver, money = parse_grant(f"{RECEIVER}={amount}")
    assert (receiver, money.units, money.token.symbol) == (RECEIVER, units, amount.split()[1])


@pytest.mark.parametrize(
    "text",
    ["", "1 ETH", RECEIVER, f"{RECEIVER}=", f"{RECEIVER}=1", f"{RECEIVER}=1 XYZ", f"{RECEIVER}=-1 ETH", "0x1=1 ETH"],
)
def test_parse_grant__nonsense__is_refused(text: str) -> None:
    with pytest.raises(InvalidField):
        parse_grant(text)
