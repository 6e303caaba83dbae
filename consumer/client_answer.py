"""What the client library gives back, read from the gateway's answers."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

_COMMENT = ": clawmarket "
_DATA = "data: "


class GatewayError(Exception):
    """The gateway refused, failed, or is not there; `status` is 0 without an answer, `code` says why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Usage:
    """In tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """A whole answer. `route` is who gave it, `cost` what it cost, such as "0.0012 USDC", or "0".

    `message` is OpenAI's object, with tool calls where there are any; `legs` are the parts of all routes.
    """

    text: str
    model: str
    route: str
    cost: str
    usage: Usage
    finish_reason: str
    message: dict[str, Any] = field(default_factory=dict)
    legs: list[dict[str, Any]] = field(default_factory=list)


class Gathering:
    """A stream's lines in, its text out, and in the end the answer."""

    def __init__(self, route: str = "") -> None:
        self.route = route
        self._texts: list[str] = []
        self._model = ""
        self._finish_reason = ""
        self._usage = Usage()
        self._told: dict[str, Any] = {}
        self._is_done = False

    def push(self, line: str) -> str:
        """The text in a line, often none. Raises GatewayError."""
        if line.startswith(_COMMENT):
            self._told = json.loads(line.removeprefix(_COMMENT))
            self.route = self._told.get("route", self.route)
        if not line.startswith(_DATA):
            return ""
        if line == f"{_DATA}[DONE]":
            self._is_done = True
            return ""
        content = json.loads(line.removeprefix(_DATA))
        if "error" in content:
            raise error_of(200, content)
        self._model = content["model"]
        self._usage = usage_of(content) or self._usage
        text = ""
        for choice in content["choices"]:
            text += choice["delta"].get("content") or ""
            self._finish_reason = choice["finish_reason"] or self._finish_reason
        self._texts.append(text)
        return text

    def answer(self) -> Answer:
        """The whole. Raises GatewayError if it has not come to its end."""
        if not self._is_done:
            raise GatewayError(0, "incomplete", "the answer has not come to its end")
        text = "".join(self._texts)
        return Answer(
            text,
            self._model,
            self.route,
            self._told.get("cost", "0"),
            self._usage,
            self._finish_reason,
            {"role": "assistant", "content": text},
            self._told.get("legs", []),
        )


def whole_answer(response: httpx.Response) -> Answer:
    """The answer in one piece."""
    content, headers = response.json(), response.headers
    choice = content["choices"][0]
    return Answer(
        choice["message"]["content"] or "",
        content["model"],
        route_of(response),
        headers.get("x-clawmarket-cost", "0"),
        usage_of(content) or Usage(),
        choice["finish_reason"] or "",
        choice["message"],
        json.loads(headers.get("x-clawmarket-legs", "[]")),
    )


def route_of(response: httpx.Response) -> str:
    """Which route answers, at the beginning of a stream."""
    return str(response.headers.get("x-clawmarket-route", ""))


def usage_of(content: dict[str, Any]) -> Usage | None:
    """The usage in an answer, if it has one."""
    usage = content.get("usage")
    return Usage(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None


def check(response: httpx.Response) -> httpx.Response:
    """The response itself. Raises GatewayError unless it is a success; its body must have been read."""
    if response.is_success:
        return response
    try:
        content = response.json()
    except ValueError:
        content = {}
    raise error_of(response.status_code, content)


def error_of(status: int, content: Any) -> GatewayError:
    """An error in OpenAI's shape, or in none."""
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        return GatewayError(status, "unknown", f"the gateway answers with status {status}")
    return GatewayError(status, str(error.get("code")), str(error.get("message")))


def unreachable(error: httpx.HTTPError, url: str) -> GatewayError:
    """No gateway there."""
    return GatewayError(0, "unreachable", f"no gateway answers at {url} ({type(error).__name__}): is it running?")
