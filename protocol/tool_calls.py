"""Finding tool calls in an answer while it comes: Hermes' and Qwen's `<tool_call>{…}</tool_call>`, Llama 3's bare JSON.

What turns out to be no call of a tool that was offered is ordinary text. White space around calls is their layout.
Both sides read so: the provider to show the calls, the consumer to hold them against the tokens.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_BARE_STARTS = ("{", "<|python_tag|>")
_PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True)
class ToolCall:
    """A call; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCallReader:
    """One answer's text: pieces in, text and calls out."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names` are the tools that were offered."""
        self._names = frozenset(names)
        self._held = ""
        self._is_bare: bool | None = None  # not known before the first visible character
        self.calls = 0

    def push(self, text: str) -> Iterator[str | ToolCall]:
        """What can be told apart now."""
        self._held += text
        if self._is_bare is None:
            self._is_bare = self._starts_bare()
        if self._is_bare is False:
            yield from self._tagged()

    def finish(self) -> Iterator[str | ToolCall]:
        """What is left at the end of the answer."""
        if self._is_bare:
            calls = self._bare()
            if calls:
                self.calls += len(calls)
                yield from calls
                return
            self._is_bare = False
            yield from self._tagged()
        rest, self._held = self._held, ""
        if rest.startswith(CALL_START) and (call := self._call(rest[len(CALL_START) :])):
            self.calls += 1
            yield call
        elif rest and not (self.calls and not rest.strip()):
            yield rest

    def _starts_bare(self) -> bool | None:
        seen = self._held.lstrip()
        if seen.startswith(_BARE_STARTS):
            return True
        return None if any(start.startswith(seen) for start in _BARE_STARTS) else False

    def _tagged(self) -> Iterator[str | ToolCall]:
        """Complete calls and the text between them; white space waits for what follows it."""
        while (start := self._held.find(CALL_START)) >= 0:
            if before := self._held[:start].rstrip():
                yield before
            self._held = self._held[start:]
            end = self._held.find(CALL_END)
            if end < 0:
                return
            whole, self._held = self._held[: end + len(CALL_END)], self._held[end + len(CALL_END) :]
            call = self._call(whole[len(CALL_START) : end])
            self.calls += call is not None
            yield call or whole
        shown = self._held[: len(self._held) - _overlap(self._held, CALL_START)].rstrip()
        if shown:
            self._held = self._held[len(shown) :]
            yield shown

    def _bare(self) -> list[ToolCall]:
        text = self._held.strip().removeprefix(_PYTHON_TAG)
        found = [self._call(part) for part in text.split(";")] if ";" in text else []
        if not found or None in found:
            found = [self._call(text)]
        return [call for call in found if call is not None]

    def _call(self, text: str) -> ToolCall | None:
        try:
            content: Any = json.loads(text)
            arguments = content.get("arguments", content.get("parameters"))
            name = content["name"]
        except (ValueError, KeyError, AttributeError, RecursionError):
            return None
        if not isinstance(name, str) or name not in self._names or not isinstance(arguments, dict):
            return None
        return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def _overlap(text: str, tag: str) -> int:
    """How much of the text's end may be the start of the tag."""
    return next((length for length in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:length])), 0)
