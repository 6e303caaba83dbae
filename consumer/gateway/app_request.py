"""Reading a request: bounded, and as little looked into as its answering needs; the rest is the route's to refuse."""

import asyncio
import json
from typing import Any, NoReturn

from starlette.types import Receive, Scope

from consumer.gateway.app_ports import Key
from consumer.gateway.errors import bad_request
from consumer.gateway.events import Asked, FailureClass, RouteFailed
from consumer.routing.names import RouteKind, parse_model

BODY_S = 30.0
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


_DECODER = json.JSONDecoder(parse_constant=_no_number)
_NEEDED = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name, in lower case."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The body. Raises RouteFailed when it is too large, slow or cut off."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise bad_request("the client left", code="client_gone", status=499)
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > max_bytes:
                    raise _too_large(max_bytes)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise RouteFailed(FailureClass.BAD_REQUEST, "the body came too slowly", status=408) from None


def read_json(content: bytes) -> Any:
    """NaN and infinities, which JSON does not know, are refused. Raises ValueError and its like."""
    return _DECODER.decode(content.decode())


def parse_asked(path: str, body: bytes, key_id: str) -> Asked:
    """The request in a body. Raises RouteFailed naming what is wrong."""
    try:
        content = read_json(body)
        if b"\\u" in body:
            json.dumps(content, ensure_ascii=False).encode()  # a half of a character goes on to nobody
    except (ValueError, RecursionError):
        raise bad_request("the body is not JSON", code="invalid_json") from None
    if not isinstance(content, dict):
        raise bad_request("the body is not a JSON object", code="invalid_json")
    _need(content, "model", str)
    if path != EMBEDDINGS and not isinstance(content.get("stream"), bool | None):
        raise bad_request("`stream` is not true or false", code="invalid_type", param="stream")
    _need(content, _NEEDED[path], list if path == CHAT else list | str)
    if not isinstance(content.get("response_format"), dict | None):
        raise bad_request("`response_format` is no object", code="invalid_type", param="response_format")
    return Asked(path, content, key_id)


def check_allowed(key: Key, asked: Asked) -> None:
    """Raises RouteFailed unless the key may ask for this model; one for certain models has to name one of them."""
    if key.allows(asked.model):
        return
    wanted = parse_model(asked.model)
    if wanted.kind is not RouteKind.MARKET or wanted.model is None or not key.allows(wanted.model):
        message = f"this API key may not ask for {asked.model[:200]}"
        raise RouteFailed(FailureClass.AUTH, message, status=403, code="model_not_allowed", param="model")


def wants_usage(asked: Asked) -> bool:
    """Whether a stream is to end with what it used."""
    options = asked.content.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _need(content: dict[str, Any], name: str, kind: Any) -> None:
    value = content.get(name)
    if value is None:
        raise bad_request(f"you must give `{name}`", code="missing_required_parameter", param=name)
    if not isinstance(value, kind) or (not value and name != "prompt"):
        raise bad_request(f"`{name}` is empty or of the wrong type", code="invalid_type", param=name)


def _too_large(max_bytes: int) -> RouteFailed:
    return bad_request(f"the body has more than {max_bytes} bytes", code="request_too_large", status=413)
