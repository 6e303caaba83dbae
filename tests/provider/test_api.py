"""The OpenAI-compatible routes in detail, with a model that says what the test writes down."""

import base64
import json
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol import money
from protocol.headers import parse_response_headers
from protocol.ids import OfferKind
from protocol.merkle import response_root, vectors_root
from protocol.typed_data import Receipt
from provider.backend import JsonOutput, Prompt
from provider.engine.errors import EngineCrashed, GenerationError
from provider.exceptions import LedgerError, Refusal
from tests.support.provider_stack import DOMAIN, NODE
from tests.support.raw_gateway import RawGateway, Received, prepare
from tests.support.scripted_provider import (
    DIMENSIONS,
    MODEL,
    ScriptedBackend,
    ScriptedProvider,
    scripted_offer,
    scripted_provider,
    unit_vector,
)

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


class Asking:
    """One provider, one lease after another: every request is the first of a lease of its own."""

    def __init__(self, provider: ScriptedProvider, gateway: RawGateway) -> None:
        self.provider = provider
        self.gateway = gateway
        self.lease_id = b""

    async def post(self, path: str, max_cost: int = 100_000, **body: Any) -> httpx.Response:
        self.lease_id = self.provider.add_lease().lease_id
        content = json.dumps({"model": MODEL, **body}).encode()
        return await self.gateway.post(prepare(self.lease_id, body=content, path=path, max_cost=max_cost))

    async def chat(self, **body: Any) -> dict[str, Any]:
        response = await self.post(CHAT, **{"messages": HI, **body})
        assert response.status_code == 200, response.text
        content: dict[str, Any] = response.json()
        self.check(response, content["clawmarket"]["tokens"])
        return content

    async def complete(self, **body: Any) -> dict[str, Any]:
        response = await self.post(COMPLETIONS, **{"prompt": "hi", **body})
        assert response.status_code == 200, response.text
        content: dict[str, Any] = response.json()
        self.check(response, content["clawmarket"]["tokens"])
        return content

    async def stream(self, path: str, **body: Any) -> tuple[list[dict[str, Any]], Received]:
        """The data objects of a stream, and the stream taken apart."""
        self.lease_id = self.provider.add_lease().lease_id
        content = json.dumps({"model": MODEL, "stream": True, **body}).encode()
        received = Received()
        prepared = prepare(self.lease_id, body=content, path=path, max_cost=100_000)
        lines = [line async for line in self.gateway.lines(prepared, received)]
        objects = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        tokens = [(token.token_id, token.logprob) for token in received.tokens]
        assert received.final.response_hash == response_root(tokens)
        assert received.final.units_out == len(tokens)
        return objects, received

    def check(self, response: httpx.Response, tokens: list[list[int]]) -> Receipt:
        """The final receipt of a whole answer fits its tokens, its price and the ledger."""
        signed = parse_response_headers(response.headers.items()).receipt
        assert signed is not None
        receipt = signed.message
        signed.verify(DOMAIN, NODE.address)
        assert (receipt.final, receipt.units_out) == (True, len(tokens))
        assert receipt.response_hash == response_root((token, logprob) for token, logprob in tokens)
        assert receipt.cost == money.receipt_cost(self.provider.offer.terms, receipt)
        assert self.provider.ledger.account(self.lease_id).served == receipt.cost
        return receipt

    def check_uncharged(self) -> None:
        """The last lease owes nothing, and nothing was admitted."""
        account = self.provider.ledger.account(self.lease_id)
        assert (account.served, account.highest_seq) == (0, -1)


@asynccontextmanager
async def asking(
    folder: Path,
    *answers: str,
    kind: OfferKind = OfferKind.INFERENCE,
    backend: ScriptedBackend | None = None,
    **options: Any,
) -> AsyncIterator[Asking]:
    offer = scripted_offer(kind, **options.pop("caps", {}))
    backend = backend or ScriptedBackend(list(answers) or ["hello"])
    async with scripted_provider(folder, backend, offer, **options) as provider, RawGateway(provider.url) as gateway:
        yield Asking(provider, gateway)


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) - {"details"} == {"message", "type", "param", "code"}
    return error


# --- completions


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("hi", Prompt(text="hi")),
        (["hi"], Prompt(text="hi")),
        ([72, 105], Prompt(tokens=[72, 105])),
        ([[72, 105]], Prompt(tokens=[72, 105])),
    ],
)
async def test_completion_prompts(tmp_path: Path, prompt: Any, wanted: Prompt) -> None:
    async with asking(tmp_path) as asks:
        content = await asks.complete(prompt=prompt, stop="x", temperature=0, seed=5)
        assert content["object"] == "text_completion"
        assert content["choices"] == [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}]
        assert content["usage"]["prompt_tokens"] == 2
        request = asks.provider.backend.requests[0]
        assert (request.prompt, request.stop, request.temperature, request.seed) == (wanted, ("x",), 0, 5)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": [1.5]}, "prompt.0"),
        ({"prompt": None}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": 10**30}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"stop": ["x"] * 5}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"stream_options": 5}, "stream_options"),
        ({"seed": 2**63}, "seed"),
    ],
)
async def test_wrong_values_are_refused_by_name_and_cost_nothing(
    tmp_path: Path, change: dict[str, Any], param: str
) -> None:
    async with asking(tmp_path) as asks:
        response = await asks.post(COMPLETIONS, **{"prompt": "hi", **change})
        assert (response.status_code, error_of(response)["param"]) == (400, param)
        asks.check_uncharged()
        assert asks.provider.backend.requests == []


async def test_null_and_unknown_fields_are_ignored(tmp_path: Path) -> None:
    names = ["max_tokens", "temperature", "top_p", "seed", "stop", "n", "stream", "stream_options", "logprobs"]
    names += ["frequency_penalty", "presence_penalty", "echo", "suffix", "best_of"]
    async with asking(tmp_path) as asks:
        content = await asks.complete(**dict.fromkeys(names), user="me", logit_bias={"5": 1}, made_up=[1])
        assert content["choices"][0]["text"] == "hello"


async def test_huge_max_tokens_is_cut_to_what_is_paid_for(tmp_path: Path) -> None:
    async with asking(tmp_path, "x" * 4000) as asks:
        response = await asks.post(COMPLETIONS, max_cost=20 + 7 * 30, prompt="hi", max_tokens=10**40)
        assert (response.json()["choices"][0]["text"], response.json()["choices"][0]["finish_reason"]) == (
            "x" * 7,
            "length",
        )


async def test_streamed_completion_has_text_chunks(tmp_path: Path) -> None:
    async with asking(tmp_path) as asks:
        objects, received = await asks.stream(COMPLETIONS, prompt="hi", stream_options={"include_usage": True})
        assert {entry["object"] for entry in objects} == {"text_completion"}
        assert (received.text, received.finish_reason, received.done) == ("hello", "stop", True)
        assert [entry["usage"] for entry in objects[:-1]] == [None] * (len(objects) - 1)
        assert (objects[-1]["choices"], objects[-1]["usage"]["completion_tokens"]) == ([], 5)


# --- log-probabilities


async def test_chat_logprobs(tmp_path: Path) -> None:
    async with asking(tmp_path, "aé") as asks:
        content = await asks.chat(logprobs=True, top_logprobs=2)
        first, second = content["choices"][0]["logprobs"]["content"]
        assert first == {
            "token": "a",
            "logprob": -0.25,
            "bytes": [97],
            "top_logprobs": [
                {"token": "A", "logprob": -0.5, "bytes": [65]},
                {"token": "B", "logprob": -1.5, "bytes": [66]},
            ],
        }
        assert second["bytes"] == list("é".encode())
        assert first["logprob"] * 1000 == content["clawmarket"]["tokens"][0][1]
        objects, _ = await asks.stream(CHAT, messages=HI, logprobs=True)
        streamed = [
            entry for item in objects if (found := item["choices"][0]["logprobs"]) for entry in found["content"]
        ]
        assert [entry["token"] for entry in streamed] == ["a", "é"]
        assert [entry["top_logprobs"] for entry in streamed] == [[], []]


async def test_completion_logprobs(tmp_path: Path) -> None:
    async with asking(tmp_path, "ab") as asks:
        content = await asks.complete(logprobs=1)
        assert content["choices"][0]["logprobs"] == {
            "tokens": ["a", "b"],
            "token_logprobs": [-0.25, -0.25],
            "top_logprobs": [{"A": -0.5}, {"A": -0.5}],
            "text_offset": [0, 1],
        }
        objects, _ = await asks.stream(COMPLETIONS, prompt="hi", logprobs=0)
        found = [item["choices"][0]["logprobs"] for item in objects if item["choices"][0]["logprobs"]]
        assert [entry["text_offset"] for entry in found] == [[0], [1]]


@pytest.mark.parametrize(
    ("body", "param"), [({"top_logprobs": 2}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs")]
)
async def test_chat_logprobs_out_of_range(tmp_path: Path, body: dict[str, Any], param: str) -> None:
    async with asking(tmp_path) as asks:
        response = await asks.post(CHAT, messages=HI, **body)
        assert (response.status_code, error_of(response)["param"]) == (400, param)


# --- several choices


async def test_choices_come_one_after_another_under_one_receipt(tmp_path: Path) -> None:
    async with asking(tmp_path, "one", "two", "three") as asks:
        content = await asks.chat(n=3, seed=7)
        assert [choice["message"]["content"] for choice in content["choices"]] == ["one", "two", "three"]
        assert [choice["index"] for choice in content["choices"]] == [0, 1, 2]
        assert content["usage"]["prompt_tokens"] == 2
        assert content["usage"]["completion_tokens"] == len("onetwothree")
        assert [request.seed for request in asks.provider.backend.requests] == [7, 8, 9]


async def test_streamed_choices_carry_their_index(tmp_path: Path) -> None:
    async with asking(tmp_path, "one", "two") as asks:
        objects, _ = await asks.stream(CHAT, messages=HI, n=2)
        texts = {0: "", 1: ""}
        for item in objects:
            for choice in item["choices"]:
                texts[choice["index"]] += choice["delta"].get("content", "")
        assert texts == {0: "one", 1: "two"}
        assert [item["choices"][0]["index"] for item in objects if item["choices"][0]["finish_reason"]] == [0, 1]


async def test_all_choices_together_stay_within_cost_and_caps(tmp_path: Path) -> None:
    async with asking(tmp_path, "x" * 100, caps={"max_units_out": 9}) as asks:
        content = await asks.chat(n=2, max_tokens=50)
        assert [choice["message"]["content"] for choice in content["choices"]] == ["xxxx", "xxxx"]
        response = await asks.post(CHAT, max_cost=20 + 7 * 30, messages=HI, n=3)
        assert [len(choice["message"]["content"]) for choice in response.json()["choices"]] == [2, 2, 2]
        response = await asks.post(CHAT, max_cost=20 + 2 * 30, messages=HI, n=3)
        assert (response.status_code, error_of(response)["details"]["least_cost"]) == (402, str(20 + 3 * 30))
        asks.check_uncharged()


# --- JSON and tools


async def test_response_formats(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with asking(tmp_path, '{"a":1}') as asks:
        await asks.chat(response_format={"type": "text"})
        await asks.chat(response_format={"type": "json_object"})
        await asks.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        outputs = [request.output for request in asks.provider.backend.requests]
        assert outputs == [None, JsonOutput({}), JsonOutput(schema)]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [nested(33), {"enum": ["x" * 17_000]}, {"const": float("nan")}, None, 5],
    ids=["deep", "long", "nan", "none", "int"],
)
async def test_schemas_are_bounded(tmp_path: Path, schema: Any) -> None:
    async with asking(tmp_path) as asks:
        wrapped = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        response = await asks.post(CHAT, messages=HI, response_format=wrapped)
        assert response.status_code == 400
        assert error_of(response)["param"].startswith("response_format.json_schema")
        asks.check_uncharged()


@pytest.mark.parametrize(
    "said",
    [
        CALL,
        "\n" + CALL + "\n",
        '{"name": "weather", "parameters": {"city": "Köln"}}',
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Köln"}}',
        '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}',
    ],
)
async def test_tool_calls_are_found(tmp_path: Path, said: str) -> None:
    async with asking(tmp_path, said) as asks:
        choice = (await asks.chat(tools=[WEATHER]))["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        (call,) = choice["message"]["tool_calls"]
        assert call["type"] == "function"
        assert call["id"]
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Köln"})
        objects, _ = await asks.stream(CHAT, messages=HI, tools=[WEATHER])
        deltas = [part for item in objects for part in item["choices"][0]["delta"].get("tool_calls", [])]
        assert (deltas[0]["index"], deltas[0]["function"]) == (0, {"name": "weather", "arguments": ""})
        assert json.loads("".join(part["function"]["arguments"] for part in deltas)) == {"city": "Köln"}
        assert objects[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_several_calls_and_text(tmp_path: Path) -> None:
    async with asking(tmp_path, "I look.\n" + CALL + "\n" + CALL) as asks:
        message = (await asks.chat(tools=[WEATHER]))["choices"][0]["message"]
        assert message["content"] == "I look."
        assert len({call["id"] for call in message["tool_calls"]}) == 2
        message = (await asks.chat(tools=[WEATHER], parallel_tool_calls=False))["choices"][0]["message"]
        assert len(message["tool_calls"]) == 1


@pytest.mark.parametrize(
    "said",
    [
        "plain",
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        "<tool_call>not json</tool_call>",
        '{"name": "weather"}',
        '{"name": ["weather"], "arguments": {}}',
        "{" * 50,
        "a < b and <tool",
        "<tool_call>",
    ],
)
async def test_what_is_no_call_is_text(tmp_path: Path, said: str) -> None:
    async with asking(tmp_path, said) as asks:
        choice = (await asks.chat(tools=[WEATHER]))["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (said, "stop")
        _, received = await asks.stream(CHAT, messages=HI, tools=[WEATHER])
        assert received.text == said


async def test_without_tools_nothing_is_taken_for_a_call(tmp_path: Path) -> None:
    async with asking(tmp_path, CALL) as asks:
        for options in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
            message = (await asks.chat(**options))["choices"][0]["message"]
            assert (message["content"], "tool_calls" in message) == (CALL, False)
            assert asks.provider.backend.requests[-1].prompt.tools is None


async def test_required_and_named_tools_force_the_output(tmp_path: Path) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    async with asking(tmp_path, CALL) as asks:
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            content = await asks.chat(tools=[WEATHER, other], tool_choice=choice)
            assert content["choices"][0]["finish_reason"] == "tool_calls"
        either, named = (request.output for request in asks.provider.backend.requests)
        assert either is not None
        assert named is not None
        assert (named.before, named.after) == ("<tool_call>\n", "\n</tool_call>")
        assert named.schema["properties"]["name"] == {"const": "weather"}
        assert named.schema["properties"]["arguments"] == WEATHER["function"]["parameters"]  # type: ignore[index]
        assert [form["properties"]["name"]["const"] for form in either.schema["anyOf"]] == ["weather", "other"]


async def test_definitions_of_a_tools_schema_stand_at_the_root(tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "t", "parameters": parameters}}
    async with asking(tmp_path, "x") as asks:
        await asks.chat(tools=[tool], tool_choice="required")
        output = asks.provider.backend.requests[0].output
        assert output is not None
        assert output.schema["$defs"] == {"P": {"type": "string"}}


async def test_tools_need_a_template_that_takes_them(tmp_path: Path) -> None:
    async with asking(tmp_path, backend=ScriptedBackend(has_tools=False)) as asks:
        response = await asks.post(CHAT, messages=HI, tools=[WEATHER])
        assert (response.status_code, error_of(response)["code"]) == (400, "tools_unsupported")
        asks.check_uncharged()
        await asks.chat(tools=[WEATHER], tool_choice="none")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
        (
            {"tools": [WEATHER], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
    ],
)
async def test_wrong_tools_are_refused(tmp_path: Path, change: dict[str, Any], param: str) -> None:
    async with asking(tmp_path) as asks:
        response = await asks.post(CHAT, **{"messages": HI, **change})
        assert (response.status_code, error_of(response)["param"]) == (400, param)
        asks.check_uncharged()


async def test_a_conversation_with_calls_reaches_the_template(tmp_path: Path) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    async with asking(tmp_path) as asks:
        await asks.chat(messages=messages, tools=[WEATHER])
        rendered = asks.provider.backend.requests[0].prompt.messages
        assert rendered is not None
        assert rendered[0] == {"role": "system", "content": "be brief"}
        assert rendered[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Köln"}}
        assert rendered[3] == {"role": "tool", "content": "rain", "tool_call_id": "call_1"}


# --- embeddings


async def test_embeddings_are_billed_by_input_and_bound_by_the_receipt(tmp_path: Path) -> None:
    async with asking(tmp_path, kind=OfferKind.EMBEDDING) as asks:
        response = await asks.post(EMBEDDINGS, input=["one", "three"], dimensions=DIMENSIONS)
        content = response.json()
        assert [item["index"] for item in content["data"]] == [0, 1]
        assert content["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
        vectors = [[round(component * 1e6) for component in item["embedding"]] for item in content["data"]]
        assert vectors == [[round(component * 1e6) for component in unit_vector(text)] for text in ("one", "three")]
        receipt = _receipt(response)
        assert (receipt.units_in, receipt.units_out, receipt.cost) == (8, 0, 80)
        assert receipt.response_hash == vectors_root(vectors)
        assert asks.provider.ledger.account(asks.lease_id).served == 80


async def test_base64_holds_the_same_millionths(tmp_path: Path) -> None:
    async with asking(tmp_path, kind=OfferKind.EMBEDDING) as asks:
        response = await asks.post(EMBEDDINGS, input=[72, 105], encoding_format="base64")
        raw = base64.b64decode(response.json()["data"][0]["embedding"])
        vector = [round(component * 1e6) for component in struct.unpack(f"<{DIMENSIONS}f", raw)]
        assert _receipt(response).response_hash == vectors_root([vector])
        assert asks.provider.backend.embedded == [[Prompt(tokens=[72, 105])]]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["x"] * 65}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["x", ""]}, "input"),
        ({"input": [1, "x"]}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": DIMENSIONS - 1}, "dimensions"),
        ({"dimensions": DIMENSIONS + 1}, "dimensions"),
    ],
)
async def test_wrong_embedding_requests_cost_nothing(tmp_path: Path, change: dict[str, Any], param: str) -> None:
    async with asking(tmp_path, kind=OfferKind.EMBEDDING) as asks:
        response = await asks.post(EMBEDDINGS, **{"input": "x", **change})
        assert (response.status_code, error_of(response)["param"].partition(".")[0]) == (400, param)
        assert asks.provider.backend.embedded == [], "nothing is computed for it"
        assert asks.provider.ledger.account(asks.lease_id).served == 0


@pytest.mark.parametrize("vector", [[2.0], [float("nan")], [float("inf")]])
async def test_vectors_that_cannot_be_bound_cost_nothing(tmp_path: Path, vector: list[float]) -> None:
    backend = ScriptedBackend(vectors=lambda _: vector)
    async with asking(tmp_path, kind=OfferKind.EMBEDDING, backend=backend) as asks:
        response = await asks.post(EMBEDDINGS, input="x")
        assert (response.status_code, response.headers["x-should-retry"]) == (502, "false")
        assert (_receipt(response).final, _receipt(response).cost) == (True, 0)


@pytest.mark.parametrize(
    ("kind", "path", "body"),
    [
        (OfferKind.EMBEDDING, CHAT, {"messages": HI}),
        (OfferKind.EMBEDDING, COMPLETIONS, {"prompt": "x"}),
        (OfferKind.INFERENCE, EMBEDDINGS, {"input": "x"}),
    ],
)
async def test_a_lease_serves_its_kind_only(tmp_path: Path, kind: OfferKind, path: str, body: dict[str, Any]) -> None:
    async with asking(tmp_path, kind=kind) as asks:
        response = await asks.post(path, **body)
        assert (response.status_code, error_of(response)["code"]) == (400, "wrong_kind")
        asks.check_uncharged()


def _receipt(response: httpx.Response) -> Receipt:
    signed = parse_response_headers(response.headers.items()).receipt
    assert signed is not None
    signed.verify(DOMAIN, NODE.address)
    return signed.message


# --- refusals


async def test_a_signed_request_counts_for_its_route_only(tmp_path: Path) -> None:
    async with asking(tmp_path) as asks:
        body = json.dumps({"model": MODEL, "messages": HI, "prompt": "hi"}).encode()
        prepared = prepare(asks.provider.add_lease().lease_id, body=body, path=CHAT)
        prepared.path = COMPLETIONS
        response = await asks.gateway.post(prepared)
        assert error_of(response)["code"] == "request_hash"
        prepared.path = CHAT
        assert (await asks.gateway.post(prepared)).status_code == 200


async def test_dust_is_refused_with_figures(tmp_path: Path) -> None:
    async with asking(tmp_path) as asks:
        lease = asks.provider.add_lease(deposit=49)
        body = json.dumps({"model": MODEL, "prompt": "hi"}).encode()
        for max_cost, figures in ((49, {"least_cost": "50", "deposit": "49"}), (50, {"deposit": "49", "needed": "50"})):
            prepared = prepare(lease.lease_id, body=body, path=COMPLETIONS, max_cost=max_cost)
            error = error_of(await asks.gateway.post(prepared))
            assert error["code"] == "overdrawn"
            assert error["details"].items() >= figures.items()
        enough = asks.provider.add_lease(deposit=50)
        prepared = prepare(enough.lease_id, body=body, path=COMPLETIONS, max_cost=50)
        assert (await asks.gateway.post(prepared)).json()["choices"][0]["text"] == "h"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/offers/x/1", 400, "invalid_request"),
        ("POST", EMBEDDINGS, 400, "malformed"),
    ],
)
async def test_every_error_has_openais_shape(tmp_path: Path, method: str, path: str, status: int, code: str) -> None:
    async with asking(tmp_path) as asks:
        response = await asks.gateway.http.request(method, path)
        assert (response.status_code, error_of(response)["code"]) == (status, code)
        assert response.headers["x-should-retry"] == "false"


async def test_bodies_beyond_the_terms_are_not_read(tmp_path: Path) -> None:
    async with asking(tmp_path) as asks:
        response = await asks.post(CHAT, messages=[{"role": "user", "content": "x" * 2**20}])
        assert (response.status_code, error_of(response)["code"]) == (413, "caps")
        prepared = prepare(asks.lease_id, body=b"x")

        async def unannounced() -> AsyncIterator[bytes]:
            for _ in range(17):
                yield b"x" * 65_536

        response = await asks.gateway.http.post(CHAT, content=unannounced(), headers=prepared.headers())
        assert response.status_code == 413
        asks.check_uncharged()


async def test_unexpected_failures_tell_nobodys_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a client's words")

    async with asking(tmp_path) as asks:
        monkeypatch.setattr(asks.provider.service, "identify", fail)
        response = await asks.post(CHAT, messages=HI)
        assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
        assert "words" not in response.text + caplog.text
        assert "ValueError at " in caplog.text
        asks.check_uncharged()


async def test_a_ledger_that_cannot_be_read_is_worth_a_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LedgerError("the disk is full")

    async with asking(tmp_path) as asks:
        monkeypatch.setattr(asks.provider.ledger, "final_receipt", fail)
        response = await asks.post(CHAT, messages=HI)
        assert (response.status_code, response.headers["x-should-retry"]) == (503, "true")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (GenerationError("bad_schema", "no"), 400, "bad_schema"),
        (GenerationError("overloaded", "no"), 503, "overloaded"),
        (GenerationError("engine_failed", "no"), 502, "engine_failed"),
        (EngineCrashed("gone"), 503, "busy"),
    ],
)
async def test_an_engine_that_fails_at_once_costs_nothing(
    tmp_path: Path, failure: GenerationError | EngineCrashed, status: int, code: str
) -> None:
    async with asking(tmp_path, backend=ScriptedBackend(failure=failure)) as asks:
        response = await asks.post(CHAT, messages=HI)
        assert (response.status_code, error_of(response)["code"]) == (status, code)
        assert (_receipt(response).final, _receipt(response).cost) == (True, 0)


# --- seams


class Closed:
    def check_open(self) -> None:
        raise Refusal("busy", "the owner uses the machine", status=503, retry_after_s=30)


class Censor:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def check(self, texts: Iterable[str]) -> None:
        self.seen = list(texts)
        if any("bomb" in text for text in self.seen):
            raise Refusal("content_policy", "not served", status=403, category="weapons", rule="1")


class Counting:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def request_refused(self, code: str) -> None:
        self.calls.append(("refused", code))

    def request_started(self, model: str) -> None:
        self.calls.append(("started", model))

    def request_ended(
        self, model: str, outcome: str, ttft_ms: int, duration_ms: int, units_in: int, units_cached: int, units_out: int
    ) -> None:
        self.calls.append(("ended", model, outcome, units_in, units_cached, units_out))
        assert 0 <= ttft_ms <= duration_ms


async def test_a_closed_gate_takes_nothing(tmp_path: Path) -> None:
    async with asking(tmp_path, gate=Closed()) as asks:
        response = await asks.post(CHAT, messages=HI)
        assert (response.status_code, response.headers["retry-after"]) == (503, "30")
        assert response.headers["x-should-retry"] == "true"
        asks.check_uncharged()
        assert asks.provider.backend.requests == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [*HI, {"role": "assistant", "content": [{"type": "text", "text": "a bomb"}]}]}),
        (CHAT, {"messages": HI, "tools": [{"type": "function", "function": {"name": "f", "description": "bomb"}}]}),
        (COMPLETIONS, {"prompt": "bomb"}),
        (COMPLETIONS, {"prompt": [98, 111, 109, 98]}),
    ],
)
async def test_the_policy_sees_every_text(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    async with asking(tmp_path, policy=Censor()) as asks:
        response = await asks.post(path, **body)
        assert (response.status_code, error_of(response)["code"]) == (403, "content_policy")
        asks.check_uncharged()
        assert asks.provider.backend.requests == []
        assert (await asks.post(CHAT, messages=HI)).status_code == 200
    async with asking(tmp_path / "without") as asks:  # the same request passes where nobody minds
        assert (await asks.post(path, **body)).status_code == 200


async def test_the_policy_sees_embedding_inputs(tmp_path: Path) -> None:
    policy = Censor()
    async with asking(tmp_path, kind=OfferKind.EMBEDDING, policy=policy) as asks:
        response = await asks.post(EMBEDDINGS, input=["fine", "bomb"])
        assert (response.status_code, policy.seen) == (403, ["fine", "bomb"])
        asks.check_uncharged()


async def test_metrics_see_starts_ends_and_refusals(tmp_path: Path) -> None:
    counting = Counting()
    async with asking(tmp_path, metrics=counting) as asks:
        await asks.chat()
        await asks.post(CHAT, messages=[])
        await asks.gateway.http.post(CHAT)
        assert counting.calls == [
            ("started", MODEL),
            ("ended", MODEL, "stop", 2, 0, 5),
            ("refused", "invalid_request"),
            ("refused", "malformed"),
        ]
