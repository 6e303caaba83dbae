"""The user's hard limits: why an offer must not be used, however good it is."""

from collections.abc import Iterator, Mapping

from consumer.routing.catalogue import Candidate
from consumer.routing.routes import Needs
from consumer.routing.settings import LimitSettings
from protocol.money import Price


class Limits:
    """`symbols` are the deployment's payment tokens by address."""

    def __init__(self, settings: LimitSettings, symbols: Mapping[str, str]) -> None:
        self._settings = settings
        self._symbols = symbols

    def of_offer(self, candidate: Candidate) -> Iterator[str]:
        """Reasons that hold for every request."""
        settings, document = self._settings, candidate.offer.document
        if candidate.provider in settings.deny:
            yield "the provider is denied"
        if settings.allow and candidate.provider not in settings.allow:
            yield "the provider is not among the allowed"
        terms = candidate.offer.terms
        yield from self._dear(candidate, "input", terms.price_in, settings.max_price_in)
        yield from self._dear(candidate, "cached input", terms.price_cached, settings.max_price_in)
        yield from self._dear(candidate, "output", terms.price_out, settings.max_price_out)
        region = document["region"]
        if settings.regions and not any(region == each or region.startswith(f"{each}-") for each in settings.regions):
            yield f"region {region} is not allowed"
        if settings.tiers and document["tier"] not in settings.tiers:
            yield f"tier {document['tier']} is not allowed"
        sandbox = candidate.sandbox
        if settings.sandboxes and sandbox not in settings.sandboxes:
            yield f"sandbox {sandbox} is not allowed"
        if candidate.claimed_sandbox is not None:
            yield f"its metadata claims the sandbox {candidate.claimed_sandbox}, its terms {sandbox}: not trusted"
        for refused in sorted(set(document["content_policy"]["refuses"]) & set(settings.refuses_none_of)):
            yield f"it refuses to serve {refused}"
        if candidate.context_length < settings.min_context:
            yield f"its context of {candidate.context_length} tokens is under {settings.min_context}"

    def of_request(self, candidate: Candidate, needs: Needs) -> Iterator[str]:
        """Reasons that hold for this request only."""
        model = candidate.offer.document["model"]
        if (needs.needs_tools or needs.needs_json) and model["chat_template_sha256"] is None:
            yield "it has no chat template, and so neither tools nor JSON answers"
        prompt, caps = needs.prompt_tokens or 0, candidate.offer.document["caps"]
        if prompt + needs.max_tokens > candidate.context_length:
            yield f"the request takes more than its context of {candidate.context_length} tokens"
        if prompt > caps["max_units_in"]:
            yield f"the prompt is longer than the {caps['max_units_in']} tokens it takes"
        if needs.max_tokens > caps["max_units_out"]:
            yield f"it answers with at most {caps['max_units_out']} tokens"

    def _dear(self, candidate: Candidate, what: str, price: int, most: Price | None) -> Iterator[str]:
        if most is None:
            return
        terms = candidate.offer.terms
        if self._symbols.get(terms.token) != most.token.symbol:
            yield f"its price is not in {most.token.symbol}"
        elif price * most.unit_scale > most.price * terms.unit_scale:
            yield f"the price of {what} is above the limit"
