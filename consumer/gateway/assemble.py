"""One answer from the entries of a stream's `choices`: what a client that did not ask for a stream gets."""

from typing import Any

from consumer.gateway.app_request import CHAT

_LISTS = ("content", "refusal", "tokens", "token_logprobs", "top_logprobs", "text_offset")


class Choices:
    """The choices of one answer as they grow."""

    def __init__(self, path: str) -> None:
        self._kind = _ChatChoice if path == CHAT else _TextChoice
        self._choices: dict[int, _ChatChoice | _TextChoice] = {}

    def add(self, entry: dict[str, Any]) -> None:
        """One entry of a chunk."""
        index = entry.get("index", 0)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = self._kind()
        choice.add(entry)

    def whole(self) -> list[dict[str, Any]]:
        """All of them, in order."""
        return [{"index": index, **self._choices[index].whole()} for index in sorted(self._choices)]


class _Choice:
    def __init__(self) -> None:
        self._text: list[str] = []
        self._finish_reason: str | None = None
        self._logprobs: dict[str, list[Any]] | None = None

    def add(self, entry: dict[str, Any]) -> None:
        self._finish_reason = entry.get("finish_reason") or self._finish_reason
        if logprobs := entry.get("logprobs"):
            self._logprobs = self._logprobs or {}
            for name in _LISTS:
                if logprobs.get(name) is not None:
                    self._logprobs.setdefault(name, []).extend(logprobs[name])

    def _ending(self) -> dict[str, Any]:
        return {"logprobs": self._logprobs, "finish_reason": self._finish_reason}


class _TextChoice(_Choice):
    def add(self, entry: dict[str, Any]) -> None:
        super().add(entry)
        self._text.append(entry.get("text") or "")

    def whole(self) -> dict[str, Any]:
        return {"text": "".join(self._text), **self._ending()}


class _ChatChoice(_Choice):
    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, dict[str, Any]] = {}
        self._others: dict[str, Any] = {}

    def add(self, entry: dict[str, Any]) -> None:
        super().add(entry)
        for name, value in (entry.get("delta") or {}).items():
            if name == "content":
                self._text.append(value or "")
            elif name == "tool_calls":
                for call in value or ():
                    _grow(self._calls.setdefault(call.get("index", 0), {}), call)
            elif name == "role" or value is None:
                continue
            elif isinstance(value, str) and isinstance(self._others.get(name, ""), str):
                self._others[name] = self._others.get(name, "") + value
            else:
                self._others[name] = value

    def whole(self) -> dict[str, Any]:
        calls = [self._calls[index] for index in sorted(self._calls)]
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        message |= {"refusal": None, **self._others}
        if calls:
            message["tool_calls"] = calls
        if self._logprobs is not None:
            self._logprobs = {"content": [], "refusal": None, **self._logprobs}  # type: ignore[dict-item]
        return {"message": message, **self._ending()}


def _grow(call: dict[str, Any], delta: dict[str, Any]) -> None:
    """Adds a piece of a tool call: its name and arguments come in parts, the rest once."""
    function = call.setdefault("function", {"name": "", "arguments": ""})
    for name, value in (delta.get("function") or {}).items():
        if value:
            function[name] = function.get(name, "") + value
    call |= {name: value for name, value in delta.items() if name not in ("index", "function") and value is not None}
