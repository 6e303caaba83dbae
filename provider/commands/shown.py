"""Figures for people."""

import datetime as dt

from protocol.money import CLAW, USDC, Money, Token
from protocol.typed_data import Terms


def show_time(unix: int) -> str:
    """In the machine's own time zone."""
    return dt.datetime.fromtimestamp(unix, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def show_span(seconds: int) -> str:
    """The two largest units."""
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 2 * 3600:
        return f"{seconds // 60} min"
    if seconds < 2 * 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} days {seconds % 86_400 // 3600} h"


def show_units(units: int, symbol: str, decimals: int) -> str:
    """An amount with its symbol."""
    return str(Money(units, Token(symbol, decimals)))


def show_price(price: int, terms: Terms, token: Token) -> str:
    """A price per thousand tokens, exact."""
    whole = price * 1_000
    if whole % terms.unit_scale:
        return f"{Money(price, token)} per {terms.unit_scale} tokens"
    return f"{Money(whole // terms.unit_scale, token)} per 1K tokens"


def token_at(address: str, addresses: dict[str, str]) -> Token:
    """The token at an address; `addresses` are those of the deployment by symbol."""
    return CLAW if address == addresses.get(CLAW.symbol) else USDC
