"""Other servers as routes: what they send, refuse, leave out and make up."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from consumer.exceptions import ConfigUnusable
from consumer.gateway.events import Asked, Chunk, Delivered, FailureClass, Leg, Part, RouteFailed, Vectors
from consumer.gateway.settings import UpstreamSettings
from consumer.gateway.upstream import Upstreams
from consumer.gateway.upstream_server import MAX_LINE_BYTES
from tests.support.raw_upstream import HEAD, Behaviour, RawUpstream, forever, raw_upstream, saying
from tests.support.waiting import until

KEY = "sk-very-secret"
CONTENT: dict[str, Any] = {"model": "upstream/u/m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
ASKED = Asked("/v1/chat/completions", CONTENT, "k")
DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def server() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as found:
        yield found


@pytest.fixture
async def upstreams(server: RawUpstream, tmp_path: Path) -> AsyncIterator[Upstreams]:
    (tmp_path / "key").write_text(KEY + "\n")
    found = Upstreams({"u": UpstreamSettings(url=server.url, key_file=tmp_path / "key", models=["m", "a/b"])}, 30)
    yield found
    await found.close()


def event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def says(content: str, ends: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": ends}], **more})


def answers(status: str, body: bytes = b"", *headers: str) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        writer.write((head + "".join(f"{line}\r\n" for line in headers) + "\r\n").encode() + body)
        await writer.drain()

    return behave


async def parts_of(upstreams: Upstreams, asked: Asked = ASKED, delivered: Delivered | None = None) -> list[Part]:
    return [part async for part in upstreams.answer(asked, delivered or Delivered(), "u", "m")]


async def failure_of(upstreams: Upstreams, asked: Asked = ASKED) -> RouteFailed:
    with pytest.raises(RouteFailed) as caught:
        await parts_of(upstreams, asked)
    return caught.value


async def test_stream__passes_entries_on_and_counts(server: RawUpstream, upstreams: Upstreams) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    last = event({"choices": [], "usage": usage})
    server.behave = saying(b": hello\n\n", says("Hel"), says("lo", "stop"), last, DONE)
    *chunks, leg = await parts_of(upstreams)
    assert [part.entries[0]["delta"]["content"] for part in chunks if isinstance(part, Chunk)] == ["Hel", "lo"]
    assert isinstance(leg, Leg)
    assert (leg.route, leg.ended, leg.cost) == ("upstream/u/m", "finished", 0)
    assert (leg.prompt_tokens, leg.cached_tokens, leg.completion_tokens) == (4, 1, 2)
    sent = server.requests[0]
    assert sent == {**CONTENT, "model": "m", "stream": True, "stream_options": {"include_usage": True}}
    assert f"authorization: bearer {KEY}" in server.heads[0].lower()


async def test_stream_without_usage__counts_pieces(server: RawUpstream, upstreams: Upstreams) -> None:
    server.behave = saying(says("a"), says("b", "stop"), DONE)
    leg = (await parts_of(upstreams))[-1]
    assert isinstance(leg, Leg)
    assert leg.completion_tokens == 2


async def test_embeddings__are_passed_on(server: RawUpstream, upstreams: Upstreams) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    server.behave = answers("200 OK", json.dumps({"data": data, "usage": {"prompt_tokens": 3}}).encode())
    vectors, leg = await parts_of(upstreams, Asked("/v1/embeddings", {"model": "m", "input": "x"}, "k"))
    assert vectors == Vectors(data)
    assert isinstance(leg, Leg)
    assert leg.prompt_tokens == 3
    assert "stream" not in server.requests[0]


async def test_continuing__begins_the_assistants_message_or_ends_the_prompt(
    server: RawUpstream, upstreams: Upstreams
) -> None:
    server.behave = saying(says(" more", "stop"), DONE)
    delivered = Delivered("so far", tokens=[1, 2], tokenizer_sha256="ab")
    await parts_of(upstreams, delivered=delivered)
    assert delivered == Delivered("so far more")
    assert server.requests[0]["messages"] == [*CONTENT["messages"], {"role": "assistant", "content": "so far"}]
    assert server.requests[0]["max_tokens"] == 7
    server.behave = saying(event({"choices": [{"text": "!", "finish_reason": "stop"}]}), DONE)
    asked = Asked("/v1/completions", {"model": "m", "prompt": "Once", "max_tokens": 2}, "k")
    await parts_of(upstreams, asked, Delivered(" upon a time"))
    assert (server.requests[1]["prompt"], server.requests[1]["max_tokens"]) == ("Once upon a time", 1)


@pytest.mark.parametrize(
    ("status", "failure", "shown"),
    [
        ("400 Bad", FailureClass.BAD_REQUEST, 400),
        ("404 None", FailureClass.BAD_REQUEST, 404),
        ("413 Large", FailureClass.BAD_REQUEST, 413),
        ("422 Odd", FailureClass.BAD_REQUEST, 422),
        ("401 Who", FailureClass.AUTH, 502),
        ("402 Pay", FailureClass.MONEY, 502),
        ("403 No", FailureClass.AUTH, 502),
        ("408 Slow", FailureClass.TIMEOUT, 502),
        ("429 Many", FailureClass.RATE_LIMIT, 429),
        ("500 Oops", FailureClass.OVERLOAD, 502),
        ("503 Busy", FailureClass.OVERLOAD, 502),
        ("504 Slow", FailureClass.TIMEOUT, 502),
        ("302 Elsewhere", FailureClass.BAD_OUTPUT, 502),
        ("418 Teapot", FailureClass.BAD_OUTPUT, 502),
    ],
)
async def test_status__is_a_class_of_failure(
    server: RawUpstream, upstreams: Upstreams, status: str, failure: FailureClass, shown: int
) -> None:
    body = json.dumps({"error": {"message": f"told {KEY[:3]}", "code": "why", "param": "p"}}).encode()
    server.behave = answers(status, body, "Retry-After: 7", "Location: http://127.0.0.1:1/")
    failed = await failure_of(upstreams)
    assert (failed.failure, failed.status, failed.retry_after_s, failed.leg) == (failure, shown, 7.0, None)
    is_shown = failure in (FailureClass.BAD_REQUEST, FailureClass.RATE_LIMIT)
    assert (failed.code, failed.param) == (("why", "p") if is_shown else (failure.value, None))


async def test_used_up_account__is_no_rate_limit(server: RawUpstream, upstreams: Upstreams) -> None:
    server.behave = answers("429 Many", b'{"error": {"code": "insufficient_quota", "message": "pay"}}')
    assert (await failure_of(upstreams)).failure is FailureClass.MONEY


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1]", b'{"error": "words"}', b'{"error": {"param": 5}}'])
async def test_refusal_in_no_known_form__is_still_one(server: RawUpstream, upstreams: Upstreams, body: bytes) -> None:
    server.behave = answers("400 Bad", body)
    failed = await failure_of(upstreams)
    assert (failed.failure, failed.code) == (FailureClass.BAD_REQUEST, "bad_request")


@pytest.mark.parametrize(
    "piece",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        event({"choices": 5}),
        event({"choices": [5]}),
        event({"choices": [{"index": 0}]}),
        event({"choices": [{"index": -1, "delta": {}}]}),
        event({"choices": [{"index": 10**9, "delta": {}}]}),
        event({"choices": [{"index": True, "delta": {}}]}),
        event({"choices": [{"delta": {"content": 5}}]}),
        event({"choices": [{"delta": {}, "finish_reason": 5}]}),
        event({"choices": [{"delta": {}, "logprobs": [1]}]}),
        event({"choices": [{"delta": {"tool_calls": {}}}]}),
        event({"choices": [{"delta": {"tool_calls": [{"index": "a"}]}}]}),
        event({"choices": [{"delta": {"tool_calls": [{"function": {"name": 5}}]}}]}),
        event({"choices": [], "usage": {"prompt_tokens": "many"}}),
        event({"choices": [], "usage": 5}),
        event({"choices": [{"delta": {}, "logprobs": {"content": [float("nan")]}}]}),
        b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: " + b"x" * (MAX_LINE_BYTES + 1),
        DONE,
        says("no end") + DONE,
        says("no end"),
    ],
)
async def test_malformed_stream__is_bad_output(server: RawUpstream, upstreams: Upstreams, piece: bytes) -> None:
    server.behave = saying(piece)
    assert (await failure_of(upstreams)).failure is FailureClass.BAD_OUTPUT


async def test_compressed_stream__is_bad_output(server: RawUpstream, upstreams: Upstreams) -> None:
    server.behave = answers("200 OK", b"\x1f\x8b", "Content-Encoding: gzip")
    assert (await failure_of(upstreams)).failure is FailureClass.BAD_OUTPUT


@pytest.mark.parametrize("body", [b"{", b'{"data": 5}', b'{"data": [5]}', b'{"data": [{"embedding": 5}]}'])
async def test_malformed_vectors__are_bad_output(server: RawUpstream, upstreams: Upstreams, body: bytes) -> None:
    server.behave = answers("200 OK", body)
    failed = await failure_of(upstreams, Asked("/v1/embeddings", {"model": "m", "input": "x"}, "k"))
    assert failed.failure is FailureClass.BAD_OUTPUT


async def test_error_in_the_stream__keeps_the_leg(server: RawUpstream, upstreams: Upstreams) -> None:
    server.behave = saying(says("Hel"), event({"error": {"message": "overloaded", "code": 429}}))
    failed = await failure_of(upstreams)
    assert failed.failure is FailureClass.RATE_LIMIT
    assert failed.leg is not None
    assert (failed.leg.ended, failed.leg.completion_tokens) == ("rate_limit", 1)


async def test_broken_connection__is_unreachable_and_keeps_the_leg(server: RawUpstream, upstreams: Upstreams) -> None:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked"))
        block = says("Hel")
        writer.write(b"%x\r\n%s\r\n" % (len(block), block))
        await writer.drain()

    server.behave = behave
    failed = await failure_of(upstreams)
    assert failed.failure is FailureClass.UNREACHABLE
    assert failed.leg is not None


async def test_nobody_there__is_unreachable() -> None:
    upstreams = Upstreams({"u": UpstreamSettings(url="http://127.0.0.1:9/v1", models=["m"])}, 30)
    assert (await failure_of(upstreams)).failure is FailureClass.UNREACHABLE
    await upstreams.close()


@pytest.mark.parametrize("piece", [b"", b": still here\n\n"])
async def test_silence__is_a_timeout_also_with_comments(server: RawUpstream, piece: bytes) -> None:
    upstreams = Upstreams({"u": UpstreamSettings(url=server.url, models=["m"])}, idle_s=0.2)
    comments = forever(piece, pause_s=0.01)

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + says("Hel"))
        await comments(writer)

    server.behave = behave
    failed = await failure_of(upstreams)
    assert failed.failure is FailureClass.TIMEOUT
    assert failed.leg is not None
    await until(lambda: not server.is_open)
    await upstreams.close()


async def test_cancelled__closes_the_connection(server: RawUpstream, upstreams: Upstreams) -> None:
    server.behave = forever(says("x"), pause_s=0.01)
    parts = upstreams.answer(ASKED, Delivered(), "u", "m")
    assert isinstance(await anext(parts), Chunk)
    assert server.is_open
    await parts.aclose()
    await until(lambda: not server.is_open)


async def test_models__only_those_configured(upstreams: Upstreams) -> None:
    assert upstreams.models() == [("u", "m"), ("u", "a/b")]
    for name, model in (("u", "other"), ("v", "m")):
        with pytest.raises(RouteFailed) as caught:
            await anext(upstreams.answer(ASKED, Delivered(), name, model))
        assert caught.value.code == "model_not_found"


async def test_keys_and_words__are_never_logged(
    server: RawUpstream, upstreams: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.behave = answers("500 Oops", KEY.encode())
    failed = await failure_of(upstreams)
    assert caplog.records
    assert KEY not in caplog.text + str(failed) + repr(failed)


@pytest.mark.parametrize("key", ["", "two\nlines", "schlüssel"])
def test_unusable_key__is_said_without_it(tmp_path: Path, key: str) -> None:
    (tmp_path / "key").write_text(key)
    with pytest.raises(ConfigUnusable, match="does not hold a key") as caught:
        Upstreams({"u": UpstreamSettings(url="https://host/v1", key_file=tmp_path / "key", models=["m"])}, 30)
    assert not key or key not in str(caught.value)


def test_missing_key__is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for source, error in (({"key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"), ({"key_file": tmp_path / "none"}, "read")):
        with pytest.raises(ConfigUnusable, match=error):
            Upstreams({"u": UpstreamSettings(url="https://host/v1", models=["m"], **source)}, 30)


@pytest.mark.parametrize(
    "url", ["host/v1", "ftp://host", "https://user:word@host/v1", "https://host/v1?key=1", "https://"]
)
def test_odd_addresses__are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        UpstreamSettings(url=url, models=["m"])
