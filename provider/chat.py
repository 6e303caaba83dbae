"""The OpenAI-compatible shapes: what a chat request may say, and the JSON that answers it."""

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provider.exceptions import Refusal

MAX_STOPS = 4
MAX_STOP_LENGTH = 64


class ContentPart(BaseModel):
    """One part of a message; only text is served."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One chat message."""

    model_config = ConfigDict(extra="ignore")
    role: str = Field(pattern="^(system|developer|user|assistant)$")
    content: str | list[ContentPart]

    def plain(self) -> dict[str, Any]:
        """As the chat template takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    """What a stream carries besides its deltas."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`; fields that are not served are ignored as OpenAI-compatible servers do."""

    model_config = ConfigDict(extra="ignore")
    model: str = Field(max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] = 1

    def limit(self) -> int | None:
        """The most tokens the client wants."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def parse_chat(body: bytes) -> ChatRequest:
    """The request in a body. Raises Refusal 400 naming the first field that is wrong."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise Refusal(
            "invalid_request", f"{place or 'body'}: {first['msg']}", status=400, param=place or None
        ) from error
    if len(request.stops()) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_LENGTH for stop in request.stops()):
        raise Refusal(
            "invalid_request",
            f"stop: at most {MAX_STOPS} strings of 1..{MAX_STOP_LENGTH} characters",
            status=400,
            param="stop",
        )
    return request


def error_body(refusal: Refusal) -> dict[str, Any]:
    """A refusal in OpenAI's shape."""
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    details = dict(refusal.details)
    param = details.pop("param", None)
    error: dict[str, Any] = {"message": str(refusal), "type": kind, "param": param, "code": str(refusal.code)}
    if details:
        error["details"] = details
    return {"error": error}


def usage(prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """OpenAI's usage object, in tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


class ChatShape:
    """Builds the objects of one answer, which share id, time and model name."""

    def __init__(self, answer_id: str, model: str) -> None:
        self._common = {"id": answer_id, "created": int(time.time()), "model": model}

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """One piece of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self, usage_object: dict[str, Any]) -> dict[str, Any]:
        """The last piece of a stream whose client asked for usage."""
        return {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage_object}

    def completion(self, text: str, finish_reason: str, usage_object: dict[str, Any]) -> dict[str, Any]:
        """The whole answer at once."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return {**self._common, "object": "chat.completion", "choices": [choice], "usage": usage_object}
