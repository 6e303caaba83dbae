"""What an engine that was taken over may send to the worker instead of frames. The walls are the worker's checks."""

import contextlib
import json
import socket
import struct
from typing import Any

from tests.sandbox.escape.attempt import NOTED, Host, attempt

_WAIT_S = 6.0
_CONTROL = "a host that believes every frame"


def _send(host: Host, *parts: bytes) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_WAIT_S)
        link.connect(f"{host['share']}/reader.sock")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the worker may have hung up
            link.sendall(host["name"].encode().ljust(64))
            for part in parts:
                link.sendall(part)
            link.shutdown(socket.SHUT_WR)
            link.recv(1)
    return ""


def _frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def _json(value: Any) -> bytes:
    return _frame(json.dumps(value).encode())


@attempt("sends an empty frame", NOTED, _CONTROL)
def empty_frame(host: Host) -> str:
    return _send(host, struct.pack(">I", 0))


@attempt("announces 4 GiB", NOTED, _CONTROL)
def endless_frame(host: Host) -> str:
    return _send(host, struct.pack(">I", 0xFFFFFFFF), b"x" * 4096)


@attempt("hangs up in the middle of a frame", NOTED, _CONTROL)
def half_a_frame(host: Host) -> str:
    return _send(host, struct.pack(">I", 100), b'{"ev"')


@attempt("sends what is no JSON", NOTED, _CONTROL)
def no_json(host: Host) -> str:
    return _send(host, _frame(b"\xff\xfe{"))


@attempt("sends a list", NOTED, _CONTROL)
def list_for_object(host: Host) -> str:
    return _send(host, _json([1, 2]))


@attempt("nests a hundred thousand lists", NOTED, _CONTROL)
def deep_frame(host: Host) -> str:
    return _send(host, _frame(b"[" * 100_000 + b"]" * 100_000))


@attempt("sends a number of a million digits", NOTED, _CONTROL)
def long_number(host: Host) -> str:
    return _send(host, _frame(b'{"ev":"token","id":' + b"9" * 1_000_000 + b"}"))


@attempt("leaves the kind of the frame out", NOTED, _CONTROL)
def no_kind(host: Host) -> str:
    return _send(host, _json({"id": 1}))


@attempt("names a request by a list", NOTED, _CONTROL)
def list_for_id(host: Host) -> str:
    return _send(host, _json({"ev": "token", "id": [1]}))


@attempt("sends a token without its fields", NOTED, _CONTROL)
def token_without_fields(host: Host) -> str:
    return _send(host, _json({"ev": "token", "id": 1}))


@attempt("sends a token whose fields have other types", NOTED, _CONTROL)
def token_of_other_types(host: Host) -> str:
    return _send(host, _json({"ev": "token", "id": 1, "token": "x", "text": 5, "logprob": [], "piece": 7, "top": 3}))


@attempt("ends a request with fields that are not known", NOTED, _CONTROL)
def unknown_fields(host: Host) -> str:
    return _send(host, _json({"ev": "done", "id": 1, "__class__": "x"}))


@attempt("tells the prompt's length as a text", NOTED, _CONTROL)
def text_for_count(host: Host) -> str:
    return _send(host, _json({"ev": "started", "id": 1, "prompt_tokens": "many", "cached_tokens": None}))


@attempt("reports an error without saying which", NOTED, _CONTROL)
def error_without_text(host: Host) -> str:
    return _send(host, _json({"ev": "error", "id": 1}))


@attempt("floods the worker with frames for requests that do not exist", NOTED, _CONTROL)
def flood(host: Host) -> str:
    return _send(host, *[_json({"ev": "token", "id": 9, "text": "x" * 60_000})] * 400)
