"""Money and prices. Integers everywhere: an amount is base units of a token, a price base units per `unit_scale` units.

What a unit is depends on the kind of offer: tokens (inference, embedding), queries (search), bytes held for one period
(storage), seconds (job).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from protocol.exceptions import InvalidField
from protocol.ids import OfferKind
from protocol.typed_data import Receipt, Terms, check_uint

BPS = 10_000
"""Basis points in one."""
MONTH_SECONDS = 30 * 24 * 3600
"""The month of storage prices: the `period` of an offer priced per GB-month."""

_MAX_AMOUNT = (1 << 128) - 1
_DECIMAL = re.compile(r"(\d{1,39})(?:\.(\d{1,39}))?", re.ASCII)
_PRICE = re.compile(
    r"(?P<amount>\S{1,80}) (?P<symbol>[A-Za-z][A-Za-z0-9]{0,15}) per (?:(?P<count>\d{1,3})? ?(?P<scale>[KMG])? ?)"
    r"(?P<unit>tokens?|quer(?:y|ies)|GB-months?|seconds?|minutes?|hours?)",
    re.ASCII,
)
_SCALES = {None: 1, "K": 10**3, "M": 10**6, "G": 10**9}


def cost(terms: Terms, units_in: int, units_cached: int, units_out: int) -> int:
    """Gross cost of one request: the sum of units × prices over the unit scale, rounded up once.

    `units_in` excludes `units_cached`. Raises InvalidField on negative or too large units, and on a cost above uint128.
    """
    check_uint(units_in, "units_in", 64)
    check_uint(units_cached, "units_cached", 64)
    check_uint(units_out, "units_out", 64)
    total = units_in * terms.price_in + units_cached * terms.price_cached + units_out * terms.price_out
    result = -(-total // terms.unit_scale)
    if result > _MAX_AMOUNT:
        raise InvalidField("cost", "out of range for uint128")
    return result


def sla_breached(terms: Terms, ttft_ms: int, duration_ms: int, units_out: int) -> bool:
    """Whether these times break a promise of the terms.

    `ttft_ms` is the time to the first unit, `duration_ms` the whole time, both from the request's arrival.
    """
    check_uint(ttft_ms, "ttft_ms", 32)
    check_uint(duration_ms, "duration_ms", 32)
    check_uint(units_out, "units_out", 64)
    if terms.sla_ttft_ms > 0 and ttft_ms > terms.sla_ttft_ms:
        return True
    if terms.sla_milli_tokens_per_s == 0 or units_out == 0:
        return False
    return units_out * 1_000_000 < terms.sla_milli_tokens_per_s * max(duration_ms - ttft_ms, 1)


def credit(terms: Terms, gross: int) -> int:
    """The part of a gross cost that a breach gives back, rounded down."""
    return gross * terms.sla_credit_bps // BPS


def cost_after_sla(
    terms: Terms, units_in: int, units_cached: int, units_out: int, ttft_ms: int, duration_ms: int
) -> int:
    """What a receipt may charge: the gross cost, less the credit that its own times imply."""
    gross = cost(terms, units_in, units_cached, units_out)
    if sla_breached(terms, ttft_ms, duration_ms, units_out):
        return gross - credit(terms, gross)
    return gross


def receipt_cost(terms: Terms, receipt: Receipt) -> int:
    """`cost_after_sla` of a receipt's own figures: an honest receipt has exactly this `cost`."""
    return cost_after_sla(
        terms, receipt.units_in, receipt.units_cached, receipt.units_out, receipt.ttft_ms, receipt.duration_ms
    )


def fee(cumulative: int, fee_bps: int) -> int:
    """The platform's part F(x) of all that was settled on a lease, rounded down; a settlement pays F(new) − F(old)."""
    check_uint(cumulative, "cumulative", 128)
    check_uint(fee_bps, "fee_bps", 16)
    if fee_bps > BPS:
        raise InvalidField("fee_bps", f"above {BPS}")
    return cumulative * fee_bps // BPS


@dataclass(frozen=True, slots=True)
class Token:
    """A payment token's symbol and its number of decimals."""

    symbol: str
    decimals: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,15}", self.symbol, re.ASCII):
            raise InvalidField("symbol", "not 1 to 16 letters and digits")
        check_uint(self.decimals, "decimals", 8)
        if self.decimals > 36:
            raise InvalidField("decimals", "above 36")


USDC = Token("USDC", 6)
CLAW = Token("CLAW", 18)
TOKENS: Mapping[str, Token] = {USDC.symbol: USDC, CLAW.symbol: CLAW}


def _parse_decimal(text: str, field: str) -> Fraction:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidField(field, "not a plain decimal number")
    return Fraction(text)


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """An amount of one token, in its base units; never negative. Sums and comparisons need the same token."""

    units: int
    token: Token

    def __post_init__(self) -> None:
        check_uint(self.units, "units", 128)

    @classmethod
    def parse(cls, text: str, token: Token | None = None) -> Money:
        """`"1.25"` of `token`, or `"1.25 USDC"`. Raises InvalidField on anything inexact or unknown."""
        number, _, symbol = text.strip().partition(" ")
        if symbol:
            named = TOKENS.get(symbol) if token is None or token.symbol != symbol else token
            if named is None or (token is not None and named != token):
                raise InvalidField("symbol", f"unknown or unexpected token {symbol[:16]!r}")
            token = named
        if token is None:
            raise InvalidField("symbol", "no token given")
        exact = _parse_decimal(number, "amount") * 10**token.decimals
        if exact.denominator != 1:
            raise InvalidField("amount", f"{token.symbol} has only {token.decimals} decimals")
        return cls(int(exact), token)

    def format(self) -> str:
        """The decimal number without the symbol, exact and without trailing zeros: `"1.25"`."""
        if self.token.decimals == 0:
            return str(self.units)
        whole, part = divmod(self.units, 10**self.token.decimals)
        decimals = str(part).zfill(self.token.decimals).rstrip("0")
        return f"{whole}.{decimals}" if decimals else str(whole)

    def __str__(self) -> str:
        return f"{self.format()} {self.token.symbol}"

    def _same(self, other: Money) -> int:
        if self.token != other.token:
            raise InvalidField("token", f"{self.token.symbol} and {other.token.symbol} don't mix")
        return other.units

    def __add__(self, other: Money) -> Money:
        return Money(self.units + self._same(other), self.token)

    def __sub__(self, other: Money) -> Money:
        return Money(self.units - self._same(other), self.token)

    def __lt__(self, other: Money) -> bool:
        return self.units < self._same(other)

    def __le__(self, other: Money) -> bool:
        return self.units <= self._same(other)


@dataclass(frozen=True, slots=True)
class Price:
    """`price` base units of `token` per `unit_scale` units, as Terms hold it, and the kind's `period` in seconds."""

    token: Token
    price: int
    unit_scale: int
    unit: str
    period: int = 0

    def __post_init__(self) -> None:
        check_uint(self.price, "price", 128)
        check_uint(self.unit_scale, "unit_scale", 64)
        if self.unit_scale == 0:
            raise InvalidField("unit_scale", "zero")

    def rescaled(self, unit_scale: int) -> Price:
        """The same price per another scale. Raises InvalidField where that is no integer."""
        check_uint(unit_scale, "unit_scale", 64)
        price, rest = divmod(self.price * unit_scale, self.unit_scale)
        if rest:
            raise InvalidField("unit_scale", f"the price is no integer per {unit_scale} units")
        return Price(self.token, price, unit_scale, self.unit, self.period)


_UNITS: Mapping[str, tuple[str, int, int]] = {
    "token": ("token", 1, 0),
    "tokens": ("token", 1, 0),
    "query": ("query", 1, 0),
    "queries": ("query", 1, 0),
    "GB-month": ("byte", 10**9, MONTH_SECONDS),
    "GB-months": ("byte", 10**9, MONTH_SECONDS),
    "second": ("second", 1, 0),
    "seconds": ("second", 1, 0),
    "minute": ("second", 60, 0),
    "minutes": ("second", 60, 0),
    "hour": ("second", 3600, 0),
    "hours": ("second", 3600, 0),
}

UNIT_OF_KIND: Mapping[OfferKind, str] = {
    OfferKind.INFERENCE: "token",
    OfferKind.EMBEDDING: "token",
    OfferKind.SEARCH: "query",
    OfferKind.STORAGE: "byte",
    OfferKind.JOB: "second",
}


def parse_price(text: str, tokens: Mapping[str, Token] = TOKENS) -> Price:
    """Read `"0.01 USDC per 1K tokens"`, `"0.02 USDC per GB-month"`, `"0.005 USDC per query"`, `"2 CLAW per hour"`.

    The unit scale is the one written, times ten as often as needed to make the price an integer.
    Raises InvalidField on anything else, on an unknown token, and where no scale within uint64 is exact.
    """
    match = _PRICE.fullmatch(text)
    if match is None:
        raise InvalidField("price", "not of the form '0.01 USDC per 1K tokens'")
    token = tokens.get(match["symbol"])
    if token is None:
        raise InvalidField("price", f"unknown token {match['symbol']!r}")
    unit, size, period = _UNITS[match["unit"]]
    scale = int(match["count"] or 1) * _SCALES[match["scale"]] * size
    exact = _parse_decimal(match["amount"], "price") * 10**token.decimals
    while exact.denominator != 1:
        exact *= 10
        scale *= 10
    return Price(token, int(exact), scale, unit, period)
