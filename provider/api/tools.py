"""Tools in a chat request: what goes to the chat template, and how an answer is made to call one."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from protocol.tool_calls import CALL_END, CALL_START
from provider.api.fields import Fields, check_schema, wrong
from provider.backend import JsonOutput

MAX_TOOLS = 128
MAX_DESCRIPTION = 16 * 1024

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(Fields):
    """A function that the client offers."""

    name: Name
    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION)
    parameters: dict[str, Any] | None = None


class Tool(Fields):
    """One tool; only functions are known."""

    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it."""
        function = {**self.function.model_dump(exclude_none=True), "parameters": self.function.parameters or {}}
        return {"type": "function", "function": function}


class NamedFunction(Fields):
    """The function that must be called."""

    name: Name


class NamedTool(Fields):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]


def check_tools(tools: list[Tool], choice: ToolChoice | None) -> list[str]:
    """The tools' definitions as text. Raises Refusal on parameters or a choice that cannot be."""
    texts = []
    for number, tool in enumerate(tools):
        if tool.function.parameters is not None:
            place = f"tools.{number}.function.parameters"
            check_schema(tool.function.parameters, place)
            if not isinstance(tool.function.parameters.get("$defs", {}), dict):
                raise wrong(f"{place}.$defs", "is no object")
        texts.append(json.dumps(tool.for_template(), ensure_ascii=False))
    names = {tool.function.name for tool in tools}
    if len(names) != len(tools):
        raise wrong("tools", "two functions have one name")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise wrong("tool_choice", f"there is no function {choice.function.name} in `tools`")
    if choice == "required" and not tools:
        raise wrong("tool_choice", "a call is required, but `tools` is empty")
    return texts


def forced_output(tools: list[Tool], choice: ToolChoice | None) -> JsonOutput | None:
    """The output that a required or named choice leaves open; None where the model may say what it likes.

    Raises Refusal where two functions' schemas contradict each other.
    """
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
    elif choice != "required":
        return None
    definitions: dict[str, Any] = {}
    calls = [_call_schema(tool.function, definitions) for tool in tools]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if definitions:
        schema = {**schema, "$defs": definitions}
    return JsonOutput(schema, before=CALL_START + "\n", after="\n" + CALL_END)


def _call_schema(function: Function, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one call; what its parameters refer to goes to `definitions`, which stand at the root."""
    parameters = dict(function.parameters or {"type": "object"})
    for name, definition in parameters.pop("$defs", {}).items():
        if definitions.setdefault(name, definition) != definition:
            raise wrong("tools", f"two functions define `$defs/{name}` differently")
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
