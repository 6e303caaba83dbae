"""Going on with an answer that broke off: the prompt and what was delivered, as one prompt of a completion.

The next provider gets token ids, so what it goes on from is exactly what was delivered: no token is repeated or lost.
Where the delivered text ends within a token, or the next model has another tokenizer, the text is tokenized anew.
"""

import codecs
from typing import Any

from consumer.asked import DEFAULT_MAX_TOKENS
from consumer.gateway.events import Asked, Delivered
from consumer.repeating import CHAT, COMPLETIONS
from consumer.tokenizer import PromptCounter

_KEPT = ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty")


def can_continue(asked: Asked) -> bool:
    """Whether an answer can be gone on with once something of it was delivered: a single text without rules."""
    content = asked.content
    if asked.path not in (CHAT, COMPLETIONS) or (content.get("n") or 1) != 1 or content.get("tools"):
        return False
    return bool((content.get("response_format") or {}).get("type", "text") == "text")


def continuation(asked: Asked, delivered: Delivered, counter: PromptCounter, tokenizer_sha256: str) -> dict[str, Any]:
    """The body of the completion that goes on. Raises ValueError and its like for a prompt that is malformed."""
    content = asked.content
    if asked.path == CHAT:
        prompt = counter.prompt(plain_messages(content["messages"]))
    else:
        given = content["prompt"]
        prompt = counter.text_prompt(given) if isinstance(given, str) else list(given)
    tokens = None
    if delivered.tokenizer_sha256 == tokenizer_sha256:
        tokens = exact_prefix(delivered, counter)
    if tokens is None:
        tokens = counter.text(delivered.text)
    limit = content.get("max_completion_tokens") or content.get("max_tokens") or DEFAULT_MAX_TOKENS
    body = {name: content[name] for name in _KEPT if content.get(name) is not None}
    if asked.path == CHAT and content.get("logprobs"):
        body["logprobs"] = content.get("top_logprobs") or 0
    elif asked.path == COMPLETIONS and content.get("logprobs") is not None:
        body["logprobs"] = content["logprobs"]
    return {**body, "prompt": prompt + tokens, "max_tokens": max(1, int(limit) - len(tokens)), "stream": True}


def exact_prefix(delivered: Delivered, counter: PromptCounter) -> list[int] | None:
    """The tokens whose bytes read as exactly what was delivered; None where that ends within a token.

    Bytes of a character that is not complete yet belong to what follows.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    length, offset, ends = 0, 0, {0: 0}
    for number, token in enumerate(delivered.tokens, 1):
        piece = counter.piece(token)
        text = decoder.decode(piece)
        if not delivered.text.startswith(text, length):
            return None
        length, offset = length + len(text), offset + len(piece)
        ends[offset] = number
        if length == len(delivered.text):
            end = ends.get(offset - len(decoder.getstate()[0]))
            return None if end is None else delivered.tokens[:end]
    return None


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates take them: text parts joined, `developer` called `system`."""
    return [
        {**message, "role": message["role"].replace("developer", "system"), "content": _text(message.get("content"))}
        for message in messages
    ]


def as_chat(entry: dict[str, Any]) -> dict[str, Any]:
    """A completion's stream entry as a chat has it."""
    logprobs = entry.get("logprobs")
    return {
        "index": 0,
        "delta": {"content": entry["text"]} if entry.get("text") else {},
        "logprobs": {"content": _logprobs(logprobs), "refusal": None} if logprobs else None,
        "finish_reason": entry.get("finish_reason"),
    }


def _logprobs(legacy: dict[str, Any]) -> list[dict[str, Any]]:
    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    tops = legacy.get("top_logprobs") or [{}] * len(legacy["tokens"])
    return [
        {**entry(token, logprob), "top_logprobs": [entry(*each) for each in (top or {}).items()]}
        for token, logprob, top in zip(legacy["tokens"], legacy["token_logprobs"], tops, strict=True)
    ]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""
