"""The messages of a chat, as clients send them and as chat templates take them."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from provider.api.fields import Fields
from provider.api.tools import Name

MAX_CALLS = 128


class ContentPart(Fields):
    """One part of a message; only text is served."""

    type: Literal["text"]
    text: str


class CalledFunction(Fields):
    """A call that the assistant made earlier; `arguments` is JSON text."""

    name: Name
    arguments: str

    def for_template(self) -> dict[str, Any]:
        """Templates write the arguments as JSON themselves, so they get the object."""
        try:
            arguments: Any = json.loads(self.arguments)
        except (ValueError, RecursionError):
            arguments = self.arguments
        return {"name": self.name, "arguments": arguments if isinstance(arguments, dict) else self.arguments}


class Call(Fields):
    """One of an assistant message's tool calls."""

    id: str = Field(max_length=200)
    type: Literal["function"]
    function: CalledFunction


class Message(Fields):
    """One chat message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(max_length=2048)] | None = None
    name: str | None = Field(default=None, max_length=200)
    tool_calls: Annotated[list[Call], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = Field(default=None, max_length=200)

    @property
    def text(self) -> str:
        """Its text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @property
    def texts(self) -> list[str]:
        """Everything in it that reaches the model."""
        calls = [text for call in self.tool_calls or [] for text in (call.function.name, call.function.arguments)]
        return [text for text in (self.text, self.name or "", *calls) if text]

    def for_template(self) -> dict[str, Any]:
        """As the chat template takes it."""
        rendered: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.text}
        if self.role == "tool":
            rendered |= {
                key: value for key, value in (("tool_call_id", self.tool_call_id), ("name", self.name)) if value
            }
        if self.tool_calls:
            rendered["tool_calls"] = [
                {"id": call.id, "type": "function", "function": call.function.for_template()}
                for call in self.tool_calls
            ]
        return rendered
