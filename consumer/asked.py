"""What somebody else's client asks: read from its body, to know what an answer may cost and how to check it."""

import json
from dataclasses import dataclass
from typing import Any

from consumer.checks import most_cost
from consumer.records import Limits
from consumer.repeating import CHAT, COMPLETIONS, EMBEDDINGS
from consumer.shown_choices import Shape
from consumer.tokenizer import PromptCounter
from protocol.typed_data import Terms

DEFAULT_MAX_TOKENS = 1024
"""What is authorised for each choice of a request that sets no limit itself."""
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Asked:
    """A paid request. `shape` is how its answer shows its tokens, None for an embedding, which has none.

    `vectors` is how many an embedding must bring, 0 for every other request.
    """

    path: str
    limits: Limits
    shape: Shape | None
    vectors: int = 0
    is_streamed: bool = False


def read(path: str, body: bytes, terms: Terms, counter: PromptCounter | None) -> Asked | None:
    """What a body asks for; None for one that no provider would serve."""
    try:
        content = json.loads(body)
        if path == EMBEDDINGS:
            given = content["input"]
            limits = _limits(_inputs(given, counter), body, 0)
            return Asked(path, limits, None, 1 if isinstance(given, str) or isinstance(given[0], int) else len(given))
        choices, tools = int(content.get("n") or 1), content.get("tools")
        given = content.get("max_completion_tokens") or content.get("max_tokens")
        if path == COMPLETIONS:
            prompt = _unwrapped(content["prompt"])
            limits = _limits(_inputs(prompt, counter), body, choices * int(given or DEFAULT_MAX_TOKENS))
        else:
            counted = None if tools else _messages(content["messages"], counter)
            limits = _limits(counted, body, choices * int(given or DEFAULT_MAX_TOKENS))
        shape = _shape(content, choices, tools if path == CHAT else None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if choices < 1 or not 0 < limits.max_tokens <= _MOST:
        return None
    if not given:
        limits = Limits(limits.prompt_tokens, limits.prompt_bound, _affordable(terms, limits))
    return Asked(path, limits, shape, is_streamed=bool(content.get("stream")))


def is_paid(method: str, path: str) -> bool:
    """Whether a request costs anything."""
    return method == "POST" and path in (CHAT, COMPLETIONS, EMBEDDINGS)


def _limits(counted: int | None, body: bytes, max_tokens: int) -> Limits:
    """Without a count a token is taken to have at least half a byte of the body: templates spread tools out."""
    return Limits(counted, 2 * len(body) + 1024 if counted is None else counted, max_tokens)


def _affordable(terms: Terms, limits: Limits) -> int:
    """A provider may give as many tokens as the authorised cost pays for, if the prompt is shorter than its bound."""
    paid = most_cost(terms, limits.prompt_bound, limits.max_tokens)
    return min(_MOST, paid * terms.unit_scale // terms.price_out) if terms.price_out else _MOST


def _shape(content: Any, choices: int, tools: Any) -> Shape:
    stop = content.get("stop") or ()
    stops = (stop,) if isinstance(stop, str) else tuple(map(str, stop))
    forces_text = content.get("tool_choice") == "none" or (content.get("response_format") or {}).get("type") not in (
        None,
        "text",
    )
    names = () if forces_text else tuple(str(tool["function"]["name"]) for tool in tools or ())
    return Shape(stops, choices, names, only_one_call=content.get("parallel_tool_calls") is False)


def _unwrapped(prompt: Any) -> Any:
    return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int) else prompt


def _inputs(given: Any, counter: PromptCounter | None) -> int | None:
    """Tokens of a text, of token ids, or of a list of those."""
    if isinstance(given, str):
        return counter.count_prompt(given) if counter else None
    if all(isinstance(item, int) for item in given):
        return len(given)
    counts = [_inputs(item, counter) for item in given]
    return None if None in counts else sum(count for count in counts if count is not None)


def _messages(messages: Any, counter: PromptCounter | None) -> int | None:
    """Tokens of plain messages; others have more ways to be rendered than are worth repeating here."""
    if counter is None or any(set(message) != {"role", "content"} for message in messages):
        return None
    if not all(isinstance(message["content"], str) for message in messages):
        return None
    plain = [{**message, "role": message["role"].replace("developer", "system")} for message in messages]
    return counter.count(plain)
