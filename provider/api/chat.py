"""`POST /v1/chat/completions`: what a request may say, and the JSON that answers it."""

from typing import Annotated, Any

from pydantic import Field

from protocol.tool_calls import ToolCall, ToolCallReader
from provider.api.choices import Choice, Totals
from provider.api.fields import ResponseFormat, Sampling, parse, wrong
from provider.api.logprobs import chat_entry
from provider.api.messages import Message
from provider.api.tools import Tool, ToolChoice, Tools, check_tools, forced_output
from provider.backend import GenerationRequest, Prompt
from provider.events import Piece
from provider.work import Generate

MAX_MESSAGES = 2048
MAX_TOP_LOGPROBS = 20


class ChatRequest(Sampling):
    """The body."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model gets to see."""
        return [] if self.tool_choice == "none" else self.tools or []

    def work(self) -> Generate:
        """What the service is to do. Raises Refusal."""
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("top_logprobs", "needs `logprobs` to be true")
        texts = check_tools(self.offered, self.tool_choice)
        output = self.response_format.output() if self.response_format else None
        forced = forced_output(self.offered, self.tool_choice)
        if output is not None and forced is not None:
            raise wrong("response_format", "a tool call is asked for already: ask for one of the two")
        for message in self.messages:
            texts += message.texts
        request = GenerationRequest(
            prompt=Prompt(
                messages=[message.for_template() for message in self.messages],
                tools=[tool.for_template() for tool in self.offered] or None,
            ),
            max_tokens=0,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            output=output or forced,
            **self.sampling(),
        )
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return Generate(self.model, request, tuple(texts), limit, self.n or 1)

    def shape(self, answer_id: str, created: int) -> "ChatShape":
        """What its answer looks like."""
        forces_json = self.response_format is not None and self.response_format.type != "text"
        names = () if forces_json else tuple(tool.function.name for tool in self.offered)
        only_one = self.parallel_tool_calls is False
        return ChatShape(answer_id, created, self.model, names, only_one=only_one, has_logprobs=bool(self.logprobs))


def parse_chat(body: bytes) -> ChatRequest:
    """The request in a body. Raises Refusal 400 naming a field that is wrong."""
    return parse(ChatRequest, body)


class ChatShape:
    """Builds the objects of one answer, which share id, time and model name."""

    prefix = "chatcmpl"

    def __init__(
        self, answer_id: str, created: int, model: str, tools: tuple[str, ...], *, only_one: bool, has_logprobs: bool
    ) -> None:
        self._common = {"id": f"{self.prefix}-{answer_id}", "created": created, "model": model}
        self._tools = tools
        self._only_one = only_one
        self._has_logprobs = has_logprobs

    def choice(self, index: int) -> "ChatChoice":
        """A choice that begins."""
        reader = ToolCallReader(self._tools) if self._tools else None
        call_id = f"call_{self._common['id']}_{index}"
        return ChatChoice(index, reader, call_id, only_one=self._only_one, has_logprobs=self._has_logprobs)

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """One object of a stream."""
        return {**self._common, "object": "chat.completion.chunk", "choices": choices}

    def whole(self, choices: list[dict[str, Any]], totals: Totals) -> dict[str, Any]:
        """The whole answer at once."""
        return {**self._common, "object": "chat.completion", "choices": choices, "usage": totals.usage()}


class ChatChoice(Choice):
    """One choice, piece by piece."""

    def __init__(
        self, index: int, reader: ToolCallReader | None, call_id: str, *, only_one: bool, has_logprobs: bool
    ) -> None:
        self._index = index
        self._reader = reader
        self._call_id = call_id
        self._only_one = only_one
        self._has_logprobs = has_logprobs
        self._text: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []

    def opening(self) -> list[dict[str, Any]]:
        """Who speaks."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        """The deltas of one token."""
        deltas = self._deltas(piece.text)
        if not self._has_logprobs:
            return [self._chunk(delta) for delta in deltas]
        entry = chat_entry(piece)
        self._logprobs.append(entry)
        first, *others = deltas or [{}]
        return [self._chunk(first, logprobs={"content": [entry], "refusal": None}), *map(self._chunk, others)]

    def close(self, finish_reason: str, text: str) -> list[dict[str, Any]]:
        """The last deltas, and why it ended."""
        deltas = self._deltas(text)
        if self._reader is not None:
            deltas += [delta for found in self._reader.finish() for delta in self._delta(found)]
        self.finish_reason = "tool_calls" if self._calls and finish_reason == "stop" else finish_reason
        return [*map(self._chunk, deltas), self._chunk({}, finish_reason=self.finish_reason)]

    def whole(self) -> dict[str, Any]:
        """The choice as it stands."""
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not self._calls else None}
        message["refusal"] = None
        if self._calls:
            message["tool_calls"] = self._calls
        logprobs = {"content": self._logprobs, "refusal": None} if self._has_logprobs else None
        return {
            "index": self._index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self.finish_reason,
        }

    def _deltas(self, text: str) -> list[dict[str, Any]]:
        found = [text] if self._reader is None else self._reader.push(text)
        return [delta for item in found if item for delta in self._delta(item)]

    def _delta(self, item: str | ToolCall) -> list[dict[str, Any]]:
        if isinstance(item, str):
            self._text.append(item)
            return [{"content": item}]
        if self._only_one and self._calls:
            return []
        number = len(self._calls)
        call = {
            "id": f"{self._call_id}_{number}",
            "type": "function",
            "function": {"name": item.name, "arguments": item.arguments},
        }
        self._calls.append(call)
        begun = {**call, "index": number, "function": {"name": item.name, "arguments": ""}}
        return [
            {"tool_calls": [begun]},
            {"tool_calls": [{"index": number, "function": {"arguments": item.arguments}}]},
        ]

    def _chunk(
        self, delta: dict[str, Any], *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
