"""The gateway's HTTP interface to the real `openai` package and to raw requests, with a scripted dispatcher behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from consumer.gateway.events import Chunk, FailureClass, Leg, Routed, RouteFailed, Vectors
from consumer.gateway.settings import GatewaySettings
from tests.consumer.gateway.scripted import KEY, LEG, ROUTE, OneKey, Served, served
from tests.support.waiting import until

ASK: Any = {"model": "model", "messages": [{"role": "user", "content": "Hello?"}]}
BODY = json.dumps(ASK).encode()
TO = Routed(ROUTE, "cheapest", 0)
BROKEN = RouteFailed(FailureClass.UNREACHABLE, "nobody is there")


def says(content: str | None = None, index: int = 0, ends: str | None = None, **more: Any) -> Chunk:
    delta = {"content": content} if content is not None else {}
    return Chunk([{"index": index, "delta": delta | more, "logprobs": None, "finish_reason": ends}])


HELLO = (TO, says("", role="assistant"), says("Hel"), says("lo"), says(ends="stop"), LEG)


@pytest.fixture
async def gateway() -> AsyncIterator[Served]:
    async with served() as found:
        yield found


@pytest.fixture
async def client(gateway: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as found:
        yield found


async def test_chat__whole__is_assembled_with_usage_and_headers(gateway: Served, client: AsyncOpenAI) -> None:
    gateway.dispatcher.script = HELLO
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    answer = raw.parse()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello", "stop")
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", "model", "chatcmpl-")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 3, 8)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert raw.headers["x-clawmarket-route"] == ROUTE
    assert raw.headers["x-clawmarket-cost"] == "0.0012 USDC"
    assert json.loads(raw.headers["x-clawmarket-legs"])[0]["ended"] == "finished"
    asked = gateway.dispatcher.asked[0]
    assert (asked.path, asked.content, asked.key_id) == ("/v1/chat/completions", ASK, "k1")


async def test_chat__stream__brings_each_entry_and_usage_when_wanted(gateway: Served, client: AsyncOpenAI) -> None:
    gateway.dispatcher.script = HELLO
    stream = await client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert [choice.delta.content for chunk in chunks for choice in chunk.choices] == ["", "Hel", "lo", None]
    assert {(chunk.object, chunk.model, chunk.id) for chunk in chunks} == {
        ("chat.completion.chunk", "model", chunks[0].id)
    }
    assert [chunk.usage is None for chunk in chunks] == [True] * 4 + [False]
    assert chunks[-1].usage is not None
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 8)


async def test_chat__stream_without_usage__has_none(gateway: Served, client: AsyncOpenAI) -> None:
    gateway.dispatcher.script = HELLO
    chunks = [chunk async for chunk in await client.chat.completions.create(**ASK, stream=True)]
    assert len(chunks) == 4
    assert not any(chunk.usage for chunk in chunks)


async def test_chat__stream__ends_with_a_comment_on_cost_and_routes(gateway: Served) -> None:
    gateway.dispatcher.script = (TO, LEG, Routed("local/mine", "after a failure", 1), *HELLO[1:])
    answer = await gateway.post("/v1/chat/completions", json.dumps({**ASK, "stream": True}).encode())
    *_, comment, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    said = json.loads(comment.removeprefix(": clawmarket "))
    assert [route["route"] for route in said["routes"]] == [ROUTE, "local/mine"]
    assert (said["cost"], len(said["legs"])) == ("0.0024 USDC", 2)
    assert answer.headers["x-clawmarket-route"] == "local/mine"


async def test_chat__auto__is_told_which_route_answered(gateway: Served, client: AsyncOpenAI) -> None:
    gateway.dispatcher.script = HELLO
    assert (await client.chat.completions.create(**{**ASK, "model": "auto"})).model == ROUTE
    async for chunk in await client.chat.completions.create(**{**ASK, "model": "auto:cheap"}, stream=True):
        assert chunk.model == ROUTE


async def test_chat__several_legs__usage_is_their_sum(gateway: Served, client: AsyncOpenAI) -> None:
    other = Leg("local/mine", "finished", prompt_tokens=7, completion_tokens=1)
    gateway.dispatcher.script = (TO, says("a"), LEG, Routed("local/mine", "broke", 1), says("b", ends="stop"), other)
    answer = await client.chat.completions.create(**ASK)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 4)
    assert answer.choices[0].message.content == "ab"


async def test_headers__stay_short_however_much_failed(gateway: Served, client: AsyncOpenAI) -> None:
    failed = Leg(f"provider/8/{'é' * 50}", "sorry\n" * 10_000)
    failures = [step for _ in range(50) for step in (Routed(failed.route, "x" * 10_000, 0), failed)]
    gateway.dispatcher.script = (*failures, *HELLO)
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    assert sum(len(value) for _, value in raw.headers.items()) < 16_384
    legs = json.loads(raw.headers["x-clawmarket-legs"])
    assert (legs[0]["route"], legs[-1]["route"]) == (failed.route, ROUTE)
    gateway.dispatcher.script = (Routed(failed.route, "", 0), *HELLO[1:])
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["x-clawmarket-route"].startswith("provider/8/")


async def test_chat__tool_calls__are_joined_by_index(gateway: Served, client: AsyncOpenAI) -> None:
    def call(index: int, arguments: str, **begun: Any) -> Chunk:
        name = {"name": begun.pop("name")} if begun else {}
        function = {**name, "arguments": arguments}
        return says(tool_calls=[{"index": index, **begun, "function": function}])

    script = (
        TO,
        says(role="assistant"),
        call(0, "", id="c0", type="function", name="look"),
        call(0, '{"a":'),
        call(0, "1}"),
        call(1, "", id="c1", type="function", name="find"),
        call(1, "{}"),
        says(ends="tool_calls"),
        LEG,
    )
    gateway.dispatcher.script = script
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    choice = (await client.chat.completions.create(**ASK, tools=tools)).choices[0]
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
    calls: Any = choice.message.tool_calls
    assert [(each.id, each.type, each.function.name, each.function.arguments) for each in calls] == [
        ("c0", "function", "look", '{"a":1}'),
        ("c1", "function", "find", "{}"),
    ]
    assert gateway.dispatcher.asked[0].content["tools"] == tools
    async with client.chat.completions.stream(**ASK, tools=tools) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.tool_calls is not None
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'


async def test_chat__several_choices_and_logprobs__each_is_whole(gateway: Served, client: AsyncOpenAI) -> None:
    def token(text: str, index: int, ends: str | None = None) -> Chunk:
        entry = {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}
        logprobs = {"content": [entry], "refusal": None}
        delta = {"content": text}
        return Chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": ends}])

    gateway.dispatcher.script = (TO, token("x", 1), token("a", 0), token("b", 0, "length"), token("y", 1, "stop"), LEG)
    answer = await client.chat.completions.create(**ASK, n=2, logprobs=True)
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "ab", "length"),
        (1, "xy", "stop"),
    ]
    for choice, tokens in zip(answer.choices, ("ab", "xy"), strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert "".join(entry.token for entry in choice.logprobs.content) == tokens


async def test_completions__stream_and_whole(gateway: Served, client: AsyncOpenAI) -> None:
    def piece(text: str, ends: str | None = None) -> Chunk:
        logprobs = {"tokens": [text], "token_logprobs": [-1.0], "top_logprobs": [{text: -1.0}], "text_offset": [0]}
        return Chunk([{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": ends}])

    gateway.dispatcher.script = (TO, piece("on"), piece("ce", "length"), LEG)
    answer = await client.completions.create(model="model", prompt="", logprobs=1)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, answer.object) == ("once", "length", "text_completion")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["on", "ce"]
    stream = await client.completions.create(model="model", prompt="so", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "once"


async def test_embeddings__both_encodings_pass_through(gateway: Served, client: AsyncOpenAI) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
    gateway.dispatcher.script = (TO, Vectors(data), LEG)
    answer = await client.embeddings.create(model="model", input=["x"], encoding_format="float")
    assert answer.data[0].embedding == [0.5, -0.25]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 5)


async def test_sync_client__streams_and_lists(gateway: Served) -> None:
    gateway.dispatcher.script = HELLO

    def use() -> tuple[str, list[str], str]:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
            stream = client.chat.completions.create(**ASK, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return text, [model.id for model in client.models.list()], client.models.retrieve("local/mine").id

    assert await asyncio.to_thread(use) == ("Hello", ["model", "local/mine"], "local/mine")


async def test_models__unknown__is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model other"):
        await client.models.retrieve("other")


@pytest.mark.parametrize(
    ("failed", "raised"),
    [
        (RouteFailed(FailureClass.AUTH, "no", status=401, code="invalid_api_key"), openai.AuthenticationError),
        (RouteFailed(FailureClass.MONEY, "no", status=402, code="insufficient_quota"), openai.APIStatusError),
        (RouteFailed(FailureClass.BAD_REQUEST, "no", status=404, code="model_not_found"), openai.NotFoundError),
        (RouteFailed(FailureClass.RATE_LIMIT, "no", status=429, retry_after_s=2.5), openai.RateLimitError),
        (RouteFailed(FailureClass.UNREACHABLE, "no"), openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failure__before_the_first_chunk__is_a_status(
    gateway: Served, client: AsyncOpenAI, failed: RouteFailed, raised: type[openai.APIStatusError], stream: bool
) -> None:
    gateway.dispatcher.script = (TO, failed)
    with pytest.raises(raised) as caught:
        await client.chat.completions.create(**ASK, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (failed.status, failed.code)
    assert caught.value.response.headers["x-should-retry"] == ("true" if failed.status == 429 else "false")
    assert caught.value.response.headers.get("retry-after") == ("3" if failed.status == 429 else None)


async def test_failure__after_the_first_chunk__is_an_event(gateway: Served, client: AsyncOpenAI) -> None:
    gateway.dispatcher.script = (TO, says("Hel"), BROKEN)
    chunks = aiter(await client.chat.completions.create(**ASK, stream=True))
    assert (await anext(chunks)).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError, match="nobody is there"):
        await anext(chunks)


async def test_failure__in_a_whole_answer__is_a_status(gateway: Served, client: AsyncOpenAI) -> None:
    gateway.dispatcher.script = (TO, says("Hel"), BROKEN)
    with pytest.raises(openai.InternalServerError, match="nobody is there"):
        await client.chat.completions.create(**ASK)


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect__cancels_the_dispatcher(gateway: Served, stream: bool) -> None:
    gateway.dispatcher.script = (TO, says("Hel"), asyncio.Event())
    body = json.dumps({**ASK, "stream": stream}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await until(lambda: gateway.dispatcher.asked)
    if stream:
        await reader.readuntil(b"Hel")
    assert gateway.dispatcher.closed == 0
    writer.close()
    await until(lambda: gateway.dispatcher.closed)
    status = (await gateway.get("/gateway/status")).json()
    assert (status["requests"]["running"], status["requests"]["recent"][0]["ended"]) == (0, "cancelled")


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("chat/completions", b"{", "invalid_json", None),
        ("chat/completions", b"[]", "invalid_json", None),
        ("chat/completions", b'{"a": NaN}', "invalid_json", None),
        ("chat/completions", b"[" * 100_000, "invalid_json", None),
        ("chat/completions", b'{"messages": [1]}', "missing_required_parameter", "model"),
        ("chat/completions", b'{"model": "m"}', "missing_required_parameter", "messages"),
        ("chat/completions", b'{"model": "m", "messages": []}', "invalid_type", "messages"),
        ("chat/completions", b'{"model": 1, "messages": [1]}', "invalid_type", "model"),
        ("chat/completions", b'{"model": "m", "messages": [1], "stream": 1}', "invalid_type", "stream"),
        ("completions", b'{"model": "m"}', "missing_required_parameter", "prompt"),
        ("embeddings", b'{"model": "m"}', "missing_required_parameter", "input"),
    ],
)
async def test_bad_body__is_named_and_asks_nobody(
    gateway: Served, path: str, body: bytes, code: str, param: str | None
) -> None:
    answer = await gateway.post(f"/v1/{path}", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"], error["param"]) == (
        400,
        "invalid_request_error",
        code,
        param,
    )
    assert not gateway.dispatcher.asked


@pytest.mark.parametrize("is_declared", [True, False])
async def test_too_large_body__is_refused(is_declared: bool) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b" " * 128 * 1024

    async with served(GatewaySettings(max_body_mb=1)) as gateway, httpx.AsyncClient() as http:
        content = b" " * (9 * 128 * 1024) if is_declared else blocks()
        answer = await http.post(
            f"{gateway.url}/v1/chat/completions", content=content, headers={"Authorization": f"Bearer {KEY}"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", ["/v1/models", "/gateway/status", "/metrics"])
async def test_without_key__nothing_is_told(gateway: Served, path: str) -> None:
    assert (await gateway.get(path)).status_code == 200
    answer = await gateway.get(path, Authorization="Bearer other")
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("one", 200),
        ("provider/7/one", 200),
        ("upstream/u/two", 200),
        ("two", 403),
        ("auto", 403),
        ("local/one", 403),
        ("upstream/u/one", 403),
        ("auto:best", 404),
    ],
)
async def test_key_for_certain_models__may_ask_no_other(name: str, status: int) -> None:
    async with served(key=OneKey(models=("one", "upstream/u/two"))) as gateway:
        gateway.dispatcher.script = HELLO
        answer = await gateway.post("/v1/chat/completions", json.dumps({**ASK, "model": name}).encode())
        assert answer.status_code == status
        assert len(gateway.dispatcher.asked) == (status == 200)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", ""])
async def test_foreign_host_header__is_refused(gateway: Served, host: str) -> None:
    answer = await gateway.get("/healthz", Host=host)
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8411", "[::1]:8411", "box.example:1"])
async def test_own_host_header__is_served(host: str) -> None:
    async with served(GatewaySettings(allowed_hosts=["box.example"])) as gateway:
        assert (await gateway.get("/healthz", Host=host)).status_code == 200


async def test_pages_of_other_origins__get_no_leave_to_read(gateway: Served) -> None:
    answer = await gateway.get("/v1/models", Origin="https://evil.example")
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_full_gateway__says_so_and_lets_in_again() -> None:
    async with served(GatewaySettings(max_requests=1)) as gateway:
        gate = asyncio.Event()
        gateway.dispatcher.script = (TO, gate, *HELLO[1:])
        first = asyncio.create_task(gateway.post("/v1/chat/completions", BODY))
        await until(lambda: gateway.dispatcher.asked)
        second = await gateway.post("/v1/chat/completions", BODY)
        assert (second.status_code, second.headers["x-should-retry"]) == (503, "true")
        gate.set()
        assert (await first).status_code == 200
        assert (await gateway.post("/v1/chat/completions", BODY)).status_code == 200


async def test_unexpected_fault__is_a_plain_500(gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    gateway.dispatcher.script = (Chunk([{"delta": "secret words"}]),)
    answer = await gateway.post("/v1/chat/completions", BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret words" not in answer.text + caplog.text
    assert "assemble.py" in caplog.text


async def test_unknown_path_and_method__in_openais_shape(gateway: Served) -> None:
    for path, status, code in (("/v1/other", 404, "unknown_url"), ("/v1/chat/completions", 405, "method_not_allowed")):
        answer = await gateway.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_ready__only_with_a_route(gateway: Served) -> None:
    assert (await gateway.get("/readyz")).status_code == 200
    gateway.dispatcher.names = []
    assert (await gateway.get("/readyz")).status_code == 503


async def test_metrics_and_status__count_what_was_answered(gateway: Served) -> None:
    gateway.dispatcher.script = HELLO
    await gateway.post("/v1/chat/completions", BODY)
    metrics = (await gateway.get("/metrics")).text
    assert f'clawmarket_requests_total{{ended="finished",path="/v1/chat/completions",route="{ROUTE}"}} 1.0' in metrics
    assert f'clawmarket_tokens_total{{direction="out",route="{ROUTE}"}} 3.0' in metrics
    assert f'clawmarket_cost_total{{route="{ROUTE}",token="USDC"}} 1200.0' in metrics
    recent = (await gateway.get("/gateway/status")).json()["requests"]["recent"]
    assert (recent[0]["ended"], recent[0]["tokens"], recent[0]["cost"]) == ("finished", 3, "0.0012 USDC")


async def test_explain__asks_the_dispatcher_and_answers_nothing(gateway: Served) -> None:
    answer = await gateway.post("/gateway/explain", BODY)
    assert answer.json() == {"routes": [{"route": ROUTE, "for": "model"}]}
    assert not gateway.dispatcher.asked
