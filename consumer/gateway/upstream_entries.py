"""What may come in the `choices` of another server's stream; whatever else it sends is malformed."""

from typing import Any

from consumer.gateway.events import Chunk, Delivered

MAX_CHOICES = 128


def check_entry(entry: Any, *, is_chat: bool) -> dict[str, Any]:
    """The entry. Raises ValueError unless it can be assembled with others."""
    _check(isinstance(entry, dict))
    index = entry.setdefault("index", 0)
    _check(type(index) is int and 0 <= index < MAX_CHOICES)
    _check(isinstance(entry.get("finish_reason"), str | None))
    if logprobs := entry.get("logprobs"):
        _check(isinstance(logprobs, dict) and all(isinstance(value, list | None) for value in logprobs.values()))
    if is_chat:
        _check_delta(entry.get("delta"))
    else:
        _check(isinstance(entry.get("text"), str))
    checked: dict[str, Any] = entry
    return checked


def deliver(delivered: Delivered, chunk: Chunk) -> None:
    """Notes what the application gets of the first choice; its tokens are not known."""
    for entry in chunk.entries:
        if entry["index"] == 0:
            delivered.text += (entry["text"] if "text" in entry else entry["delta"].get("content")) or ""


def _check_delta(delta: Any) -> None:
    _check(isinstance(delta, dict) and isinstance(delta.get("content"), str | None))
    calls = delta.get("tool_calls")
    _check(isinstance(calls, list | None))
    for call in calls or ():
        _check(isinstance(call, dict) and type(call.get("index", 0)) is int)
        function = call.get("function") or {}
        _check(isinstance(function, dict) and all(isinstance(value, str | None) for value in function.values()))


def _check(is_right: bool) -> None:  # noqa: FBT001
    if not is_right:
        raise ValueError("malformed entry")
