"""Holding tokens against text and tool calls, as `protocol.tool_calls` reads them.

Text is due as it is told apart from calls, and a call once it is complete; what was delivered may run ahead of that
until the choice ends.
"""

import json

from consumer.exceptions import ReceiptRejected
from consumer.shown_text import ShownText, Vocabulary
from protocol.tool_calls import ToolCall, ToolCallReader


class ShownCalls(ShownText):
    """One choice of an answer that may call tools."""

    def __init__(
        self, vocabulary: Vocabulary, stops: tuple[str, ...], tools: tuple[str, ...], *, only_one: bool
    ) -> None:
        """`only_one`: of several calls the first is delivered."""
        super().__init__(vocabulary, stops)
        self._reader = ToolCallReader(tools)
        self._only_one = only_one
        self._held = max(map(len, self._stops), default=1) - 1
        self._text = ""
        self._calls: list[ToolCall] = []
        self._delivered = ""
        self._called: list[list[str]] = []

    def delivered(self, text: str) -> None:
        """Text beside the calls arrived."""
        self._delivered += text
        self._note()

    def called(self, number: int, name: str, arguments: str) -> None:
        """A piece of a call arrived; its pieces are put together."""
        if number == len(self._called):
            self._called.append(["", ""])
        if number != len(self._called) - 1:
            raise ReceiptRejected("text", f"a piece of tool call {number} after {len(self._called)} calls")
        self._called[number][0] += name
        self._called[number][1] += arguments
        self._note()

    def close(self) -> None:
        """The choice is said to be complete: text and calls must be exactly these."""
        rest = self._due if self._has_ended else self._due + self._incomplete()
        self._due = ""
        self._take(rest)
        for found in self._reader.finish():
            self._expect(found)
        if self._delivered != self._text or len(self._called) != len(self._calls):
            raise self._undelivered()
        self.settle()

    def _is_shown(self) -> bool:
        certain = len(self._due) - (0 if self._has_ended else self._held)
        if certain > 0:
            text, self._due = self._due[:certain], self._due[certain:]
            self._take(text)
        return (
            self._delivered.startswith(self._text)
            and len(self._called) >= len(self._calls)
            and all(
                name == call.name and _same(arguments, call.arguments)
                for (name, arguments), call in zip(self._called, self._calls, strict=False)
            )
        )

    def _take(self, text: str) -> None:
        for found in self._reader.push(text):
            self._expect(found)

    def _expect(self, found: str | ToolCall) -> None:
        if isinstance(found, str):
            self._text += found
        elif not (self._only_one and self._calls):
            self._calls.append(found)

    def _undelivered(self) -> ReceiptRejected:
        return ReceiptRejected("text", "text and tool calls are not what the tokens read as")


def _same(left: str, right: str) -> bool:
    """Whether two JSON texts have one value."""
    try:
        return json.dumps(json.loads(left), sort_keys=True) == json.dumps(json.loads(right), sort_keys=True)
    except (ValueError, RecursionError):
        return False
