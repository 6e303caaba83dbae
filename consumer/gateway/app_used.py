"""What an answer took, over all its legs: OpenAI's usage, the cost in words, and the legs one by one."""

from typing import Any

from consumer.gateway.events import Leg
from protocol.money import TOKENS, Money

MAX_WORDS = 200
"""Of what a route says of its end: headers are short."""


def usage(legs: list[Leg], *, is_embedding: bool = False) -> dict[str, Any]:
    """OpenAI's usage object: the sum of all legs, as all of them were worked for."""
    prompt = sum(leg.prompt_tokens for leg in legs)
    if is_embedding:
        return {"prompt_tokens": prompt, "total_tokens": prompt}
    completion = sum(leg.completion_tokens for leg in legs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(leg.cached_tokens for leg in legs)},
    }


def cost(legs: list[Leg]) -> str:
    """For example "0.0012 USDC"; "0" when nothing was paid."""
    units: dict[str, int] = {}
    for leg in legs:
        if leg.cost:
            units[leg.symbol] = units.get(leg.symbol, 0) + leg.cost
    return ", ".join(str(Money(amount, TOKENS[symbol])) for symbol, amount in units.items()) or "0"


def described(legs: list[Leg]) -> list[dict[str, Any]]:
    """The legs as JSON."""
    return [
        {
            "route": leg.route,
            "ended": leg.ended[:MAX_WORDS],
            "prompt_tokens": leg.prompt_tokens,
            "completion_tokens": leg.completion_tokens,
            "cost": cost([leg]),
            "ttft_ms": leg.ttft_ms,
            "duration_ms": leg.duration_ms,
        }
        for leg in legs
    ]
