"""How good a candidate is, from 0 to 1 000 000: integers only, so that equal facts always give the same order.

    score = (Σ weight × part) × success × trust,   × 1.05 where a lease is open already

Every part is in thousandths. Prices are compared exactly and only with those in the same token: the part is the
cheapest one's cost of this request over this one's. No exchange rate is assumed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from consumer.routing.catalogue import Candidate
from consumer.routing.health import Expected
from consumer.routing.names import Preference
from consumer.routing.routes import Needs

WEIGHTS: Mapping[Preference, Mapping[str, int]] = {
    Preference.BALANCED: {"price": 40, "ttft": 20, "throughput": 20, "stake": 10, "exposure": 10},
    Preference.CHEAP: {"price": 80, "ttft": 5, "throughput": 5, "stake": 5, "exposure": 5},
    Preference.FAST: {"price": 10, "ttft": 40, "throughput": 40, "stake": 5, "exposure": 5},
}
"""In hundredths."""

HALF_TTFT_MS = 500
"""A first token after this long is worth half of one at once."""
HALF_TOKENS_PER_S = 30
HALF_STAKE = 10_000 * 10**18
DEFAULT_TOKENS = 1_000
"""What prices are compared for where a request does not say how long it is."""
HIGHEST = 1_000_000
_BPS_WITH_LEASE = 10_500


@dataclass(frozen=True)
class Cost:
    """An exact cost of `over` / `under` base units."""

    over: int
    under: int

    @classmethod
    def of(cls, candidate: Candidate, needs: Needs) -> "Cost":
        """What the request may cost."""
        terms = candidate.offer.terms
        units_in = DEFAULT_TOKENS if needs.prompt_tokens is None else needs.prompt_tokens
        units_out = needs.max_tokens or DEFAULT_TOKENS
        return cls(units_in * terms.price_in + units_out * terms.price_out, terms.unit_scale)

    def is_below(self, other: "Cost") -> bool:
        """Exactly."""
        return self.over * other.under < other.over * self.under

    @property
    def units(self) -> int:
        """Rounded up, as it would be charged."""
        return -(-self.over // self.under)

    def share_of(self, cheapest: "Cost") -> int:
        """The cheapest cost over this one, in thousandths."""
        if self.over == 0:
            return 1_000
        return 1_000 * cheapest.over * self.under // (cheapest.under * self.over)


def cheapest(costs: Iterable[tuple[str, Cost]]) -> dict[str, Cost]:
    """Of (token, cost) pairs, the lowest of each token."""
    lowest: dict[str, Cost] = {}
    for token, cost in costs:
        if token not in lowest or cost.is_below(lowest[token]):
            lowest[token] = cost
    return lowest


@dataclass(frozen=True)
class Facts:
    """What a score is made of, beside the offer itself; `exposure` in thousandths of the money in leases."""

    price: int
    expected: Expected
    stake: int
    exposure: int
    has_lease: bool


def score(preference: Preference, facts: Facts) -> tuple[int, dict[str, Any]]:
    """The score, and its parts for `explain`."""
    expected = facts.expected
    parts = {
        "price": facts.price,
        "ttft": 1_000 * HALF_TTFT_MS // (HALF_TTFT_MS + expected.ttft_ms),
        "throughput": 1_000 * expected.tokens_per_s // (HALF_TOKENS_PER_S + expected.tokens_per_s),
        "stake": 1_000 * facts.stake // (HALF_STAKE + facts.stake),
        "exposure": 1_000 - min(max(facts.exposure, 0), 1_000),
    }
    quality = 0
    for name, weight in WEIGHTS[preference].items():
        quality += weight * parts[name]
    total = 10 * quality * expected.success * expected.trust // 1_000_000
    if facts.has_lease:
        total = total * _BPS_WITH_LEASE // 10_000
    told = {**parts, "success": expected.success, "trust": expected.trust, "has_lease": facts.has_lease}
    return min(total, HIGHEST), told
