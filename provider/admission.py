"""Whether a request fits its offer, and how long its answers may become. Everything here is before any charge."""

from protocol.headers import RefusalCode
from provider.backend import Backend
from provider.exceptions import Refusal
from provider.metering import most_output, prompt_cost
from provider.offers import Offer
from provider.work import Embed, Generate, Work

_ROUTES = {"inference": "POST /v1/chat/completions or /v1/completions", "embedding": "POST /v1/embeddings"}


def check_fits(offer: Offer, work: Work, body_bytes: int) -> None:
    """Raises Refusal unless the offer is for such work, for this model, and for a body of this size."""
    kind = offer.document["kind"]
    if kind != work.kind.label:
        raise Refusal(
            "wrong_kind",
            f"this lease is for {kind}, not {work.kind.label}: "
            + (f"use {_ROUTES[kind]}" if kind in _ROUTES else "open a lease on another offer"),
            status=400,
        )
    if work.model != offer.model_name:
        raise Refusal("model_not_found", f"this lease is for the model {offer.model_name}", status=404, param="model")
    allowed = offer.document["caps"]["max_body_bytes"]
    if body_bytes > allowed:
        raise Refusal(RefusalCode.CAPS, f"the terms allow bodies of {allowed} bytes")


def check_tools(backend: Backend, work: Work) -> None:
    """Raises Refusal for tools that the model's chat template does not take."""
    if isinstance(work, Generate) and work.request.prompt.tools and not backend.has_tools:
        raise Refusal(
            "tools_unsupported",
            f"the chat template of {work.model} takes no tools: leave `tools` out, or use another model",
            status=400,
            param="tools",
        )


def answer_limit(
    backend: Backend, offer: Offer, work: Generate, prompt_tokens: int, max_cost: int, deposit: int
) -> int:
    """The most tokens of each choice. Raises Refusal when there is room, or money, for less than one each.

    All choices together stay within the terms' cap and within `max_cost`: each may take an equal part of that.
    """
    room = backend.context - prompt_tokens
    _check_input(offer, prompt_tokens, room - 1, "the prompt")
    affordable = most_output(offer.terms, prompt_tokens, max_cost)
    if affordable < work.choices:
        raise _too_dear(offer, prompt_tokens, work.choices, max_cost, deposit)
    most: int = offer.document["caps"]["max_units_out"]
    if most < work.choices:
        raise Refusal(
            RefusalCode.CAPS, f"the terms allow {most} tokens of output, for {work.choices} choices", param="n"
        )
    share = min(most, affordable) // work.choices
    return min(share if work.wanted is None else work.wanted, share, room)


def check_embedding(
    backend: Backend, offer: Offer, work: Embed, counts: list[int], max_cost: int, deposit: int
) -> None:
    """Raises Refusal unless the model makes such vectors, each prompt fits it, and all the terms and the money."""
    if work.dimensions not in (None, backend.dimensions):
        raise Refusal(
            "invalid_request",
            f"dimensions: this model's vectors have {backend.dimensions}; leave the field out",
            status=400,
            param="dimensions",
        )
    total = sum(counts)
    for number, count in enumerate(counts):
        _check_input(offer, count, backend.context - count, f"input {number}")
    _check_input(offer, total, 0, f"the {len(work.prompts)} inputs together")
    if prompt_cost(offer.terms, total) > max_cost:
        raise _too_dear(offer, total, 0, max_cost, deposit)


def _check_input(offer: Offer, tokens: int, room: int, what: str) -> None:
    allowed: int = offer.document["caps"]["max_units_in"]
    if tokens > allowed or room < 0:
        most = min(allowed, tokens + room)
        param = "messages" if what == "the prompt" else "input"
        raise Refusal(RefusalCode.CAPS, f"{what} has {tokens} tokens, {most} are allowed", param=param)


def _too_dear(offer: Offer, prompt_tokens: int, tokens: int, max_cost: int, deposit: int) -> Refusal:
    terms = offer.terms
    dearest = max(terms.price_in, terms.price_cached)
    least = -(-(prompt_tokens * dearest + tokens * terms.price_out) // terms.unit_scale)
    return Refusal(
        RefusalCode.OVERDRAWN,
        f"a prompt of {prompt_tokens} tokens and the shortest answer may cost {least}, max_cost is {max_cost}: "
        "authorise more" + (f", on another lease: this one's deposit is {deposit}" if least > deposit else ""),
        prompt_tokens=prompt_tokens,
        prompt_cost=str(prompt_cost(terms, prompt_tokens)),
        least_cost=str(least),
        max_cost=str(max_cost),
        deposit=str(deposit),
    )
