"""The plain `openai` package, synchronous and not, against a real provider: all is checked, and paid to the token."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from consumer.exceptions import ReceiptRejected
from consumer.httpx_auth import MarketAuth
from consumer.lease_client import LeaseClient
from consumer.records import RequestState
from consumer.store import Store
from consumer.tokenizer import PromptCounter
from protocol.ids import OfferKind
from protocol.signing import Signer
from provider.exceptions import Refusal
from provider.leases import Lease
from provider.offers import Offer, make_document, make_terms
from tests.consumer.buyer import PROMPT, record_of
from tests.consumer.hostile_provider import HostileProvider
from tests.support.promised import PROMISED
from tests.support.provider_stack import (
    DOMAIN,
    SESSION,
    TOKEN,
    ProviderStack,
    TestClock,
    make_lease,
    make_offer,
    provider_stack,
)
from tests.support.scripted_provider import MODEL, ScriptedBackend, ScriptedProvider, scripted_offer, scripted_provider
from tests.support.serving import serve
from tests.support.tiny_gguf import CONTEXT, NAME

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO: Any = [{"role": "user", "content": "hello"}]
ASK: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 20, "temperature": 0}
COMPLETE: dict[str, Any] = {"model": NAME, "prompt": "hello", "max_tokens": 20, "temperature": 0}
PLACE: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "place",
        "schema": {
            "type": "object",
            "properties": {"kind": {"enum": ["city", "river"]}},
            "required": ["kind"],
            "additionalProperties": False,
        },
    },
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Paying:
    """One lease's money, and its books on both sides."""

    def __init__(self, folder: Path, provider: ProviderStack | ScriptedProvider, lease: Lease, **options: Any) -> None:
        record = record_of(lease, provider.url, provider.offer)
        self.provider = provider
        self.lease_id = lease.lease_id
        self.store = Store(folder / f"{lease.lease_id.hex()}.sqlite", DOMAIN)
        self.store.add_lease(record)
        self.lease_client = LeaseClient(
            domain=DOMAIN,
            store=self.store,
            record=record,
            now=provider.clock.now,
            **{"signer": SESSION, "counter": None, **options},
        )
        self.auth = MarketAuth(self.lease_client)

    def sync_client(self, **options: Any) -> openai.OpenAI:
        http: Any = httpx.Client(auth=self.auth)
        return openai.OpenAI(base_url=self.provider.url + "/v1", api_key="unused", http_client=http, **options)

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        http: Any = httpx.AsyncClient(auth=self.auth)
        return openai.AsyncOpenAI(base_url=self.provider.url + "/v1", api_key="unused", http_client=http, **options)

    async def settle(self) -> int:
        """Ends the auth; both sides must agree to the unit, with every request ended. Returns what was paid."""
        await self.auth.aclose()
        account = self.provider.ledger.account(self.lease_id)
        highest = self.store.highest_voucher(self.lease_id)
        assert highest is not None
        assert highest.message.cumulative == self.store.owed(self.lease_id) == account.served == account.cumulative
        assert self.store.unfinished(self.lease_id) == []
        self.provider.ledger.check()
        self.store.close()
        return account.served


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderStack]:
    async with provider_stack(tmp_path_factory.mktemp("provider"), credit=20_000) as running:
        yield running


@asynccontextmanager
async def scripted(
    folder: Path, *answers: str, kind: OfferKind = OfferKind.INFERENCE, **options: Any
) -> AsyncIterator[Paying]:
    """A provider that says what a test writes down; its counts are believed, for its tokens are no model's."""
    backend = ScriptedBackend(list(answers) or ["hello"])
    async with scripted_provider(folder, backend, scripted_offer(kind), **options) as provider:
        yield Paying(folder, provider, provider.add_lease(), accept_unverified=True)


def use_everything(client: Any) -> list[str]:
    """Chat and completions, whole and streamed; returns their texts."""
    chat: Any = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2)
    streamed = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    completed = client.completions.create(**COMPLETE, logprobs=2)
    pieces = list(client.completions.create(**COMPLETE, stream=True))
    two = client.chat.completions.create(**{**ASK, "max_tokens": 5, "temperature": 1}, n=2, seed=3)
    shaped = client.chat.completions.create(**ASK, response_format=PLACE)
    assert len(chat.choices[0].logprobs.content) == 20
    assert len(chat.choices[0].logprobs.content[0].top_logprobs) == 2
    assert chat.clawmarket["tokens"][0][1] == round(chat.choices[0].logprobs.content[0].logprob * 1000)
    assert streamed[-1].usage is not None
    assert streamed[-1].usage.completion_tokens == 20
    assert len(completed.choices[0].logprobs.tokens) == 20
    assert [choice.index for choice in two.choices] == [0, 1]
    assert json.loads(shaped.choices[0].message.content or "")["kind"] in ("city", "river")
    return [
        chat.choices[0].message.content,
        "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices),
        completed.choices[0].text,
        "".join(chunk.choices[0].text for chunk in pieces),
    ]


async def test_synchronous_client(stack: ProviderStack, tmp_path: Path, counter: PromptCounter) -> None:
    paying = Paying(tmp_path, stack, stack.add_lease(), counter=counter)
    with paying.sync_client(max_retries=0) as client:
        chat, streamed, completed, pieces = await asyncio.to_thread(use_everything, client)
    assert chat == streamed
    assert completed == pieces
    assert await paying.settle() > 0


async def test_asynchronous_client(stack: ProviderStack, tmp_path: Path, counter: PromptCounter) -> None:
    paying = Paying(tmp_path, stack, stack.add_lease(), counter=counter)
    async with paying.async_client(max_retries=0) as client:
        whole, stream, text = await asyncio.gather(
            client.chat.completions.create(**ASK),
            client.chat.completions.create(**ASK, stream=True),
            client.completions.create(**COMPLETE),
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert whole.choices[0].message.content == "".join(pieces)
        assert text.usage is not None
        assert text.usage.prompt_tokens == counter.count_prompt("hello")
        assert [model.id async for model in client.models.list()] == [NAME]
    assert await paying.settle() <= (2 * PROMPT + counter.count_prompt("hello")) * 10 + 60 * 30


async def test_a_stream_pays_as_it_goes(tmp_path: Path, counter: PromptCounter) -> None:
    """The answer costs many times the credit cap."""
    credit = PROMPT * 10 + 8 * 30
    async with provider_stack(tmp_path, credit=credit, chunk_tokens=4) as stack:
        paying = Paying(tmp_path, stack, stack.add_lease(), counter=counter)
        with paying.sync_client(max_retries=0) as client:

            def ask() -> int:
                chunks = client.chat.completions.create(**{**ASK, "max_tokens": 100}, stream=True)
                return sum(1 for chunk in chunks if chunk.choices and chunk.choices[0].delta.content)

            assert await asyncio.to_thread(ask) > 20
        assert await paying.settle() > 5 * credit


async def test_a_whole_answer_beyond_the_cap_is_refused_and_paid_to_the_cap(
    tmp_path: Path, counter: PromptCounter
) -> None:
    credit = PROMPT * 10 + 8 * 30
    async with provider_stack(tmp_path, credit=credit, voucher_timeout_s=0.2) as stack:
        paying = Paying(tmp_path, stack, stack.add_lease(), counter=counter)
        async with paying.async_client(max_retries=0) as client:
            with pytest.raises(openai.APIStatusError) as refused:
                await client.chat.completions.create(**{**ASK, "max_tokens": 100})
            assert (refused.value.status_code, refused.value.code) == (402, "unpaid")
        assert await paying.settle() == credit


async def test_a_reader_who_leaves_pays_what_was_made(
    stack: ProviderStack, tmp_path: Path, counter: PromptCounter
) -> None:
    paying = Paying(tmp_path, stack, stack.add_lease(), counter=counter)
    async with paying.async_client(max_retries=0) as client:
        stream = await client.chat.completions.create(**{**ASK, "max_tokens": 200}, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
    assert PROMPT * 5 < await paying.settle() < PROMPT * 10 + 200 * 30


async def test_embeddings(tmp_path: Path, counter: PromptCounter) -> None:
    base = make_offer()
    document = make_document(
        base.document["model"],
        kind=OfferKind.EMBEDDING,
        max_units_in=CONTEXT,
        max_units_out=0,
        max_concurrent=4,
        sandbox=PROMISED,
    )
    prices = {"price_in": 10, "price_out": 0, "price_cached": 10, "unit_scale": 1}
    offer = Offer(1, 1, make_terms(document, token=TOKEN, **prices), document)
    async with provider_stack(tmp_path, offer=offer) as stack:
        paying = Paying(tmp_path, stack, stack.add_lease(), counter=counter)
        texts = ["one", "three"]
        with paying.sync_client(max_retries=0) as client:
            packed = await asyncio.to_thread(lambda: client.embeddings.create(model=NAME, input=texts))
            plain = await asyncio.to_thread(
                lambda: client.embeddings.create(model=NAME, input=texts, encoding_format="float")
            )
        assert packed.usage.total_tokens == sum(map(counter.count_prompt, texts))
        for one, other in zip(packed.data, plain.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
            assert sum(component**2 for component in one.embedding) == pytest.approx(1, abs=1e-3)
        assert await paying.settle() == 2 * packed.usage.total_tokens * 10


async def test_tools(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "tools": [WEATHER], "max_tokens": 200}
    async with scripted(tmp_path, CALL) as paying:
        async with paying.async_client(max_retries=0) as client:
            whole: Any = await client.chat.completions.create(**asked)
            (call,) = whole.choices[0].message.tool_calls
            assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})
            async with client.chat.completions.stream(**asked) as stream:
                final: Any = await stream.get_final_completion()
            (call,) = final.choices[0].message.tool_calls
            assert json.loads(call.function.arguments) == {"city": "Oslo"}
            answered: Any = [
                *HELLO,
                whole.choices[0].message,
                {"role": "tool", "tool_call_id": call.id, "content": "-3"},
            ]
            assert await client.chat.completions.create(**{**asked, "messages": answered})
        await paying.settle()


# --- errors as the client's own classes


ERRORS: list[tuple[dict[str, Any], dict[str, Any], type[openai.APIStatusError], str]] = [
    ({"temperature": 3}, {}, openai.BadRequestError, "invalid_request"),
    ({"model": "other"}, {}, openai.NotFoundError, "model_not_found"),
    ({}, {"is_revoked": True}, openai.PermissionDeniedError, "lease_ended"),
    ({}, {"signer": Signer(b"\x55" * 32).address}, openai.AuthenticationError, "bad_signature"),
    ({}, {"version": 2}, openai.ConflictError, "terms"),
    ({"messages": [{"role": "user", "content": "x" * 5000}]}, {}, openai.APIStatusError, "caps"),
]


@pytest.mark.parametrize(("body", "lease", "error", "code"), ERRORS)
async def test_refusals_are_the_clients_own_exceptions(
    tmp_path: Path, body: dict[str, Any], lease: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    async with scripted(tmp_path) as other:
        provider = other.provider
        paying = Paying(tmp_path, provider, provider.add_lease(**lease), accept_unverified=True)
        async with paying.async_client() as client:
            with pytest.raises(error) as refused:
                await client.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 5, **body})
        assert refused.value.code == code
        assert paying.store.state(paying.lease_id, 0) is RequestState.REFUSED
        with pytest.raises(Exception, match="not known"):
            paying.store.state(paying.lease_id, 1)  # what will be refused again is not asked again
        assert provider.ledger.account(paying.lease_id).served == 0
        await paying.auth.aclose()


class OpensLater:
    def __init__(self, refusal: Callable[[], Refusal]) -> None:
        self.refusals = 0
        self._refusal = refusal

    def check_open(self) -> None:
        if self.refusals < 1:
            self.refusals += 1
            raise self._refusal()


@pytest.mark.parametrize(("status", "error"), [(503, openai.InternalServerError), (429, openai.RateLimitError)])
async def test_the_client_asks_again_where_that_helps(
    tmp_path: Path, status: int, error: type[openai.APIStatusError]
) -> None:
    def refusal() -> Refusal:
        return Refusal("busy", "later", status=status, retry_after_s=0.1)

    for retries in (0, 1):
        async with scripted(tmp_path / str(retries), gate=OpensLater(refusal)) as paying:
            async with paying.async_client(max_retries=retries) as client:
                asking = client.chat.completions.create(model=MODEL, messages=HELLO)
                if retries:
                    assert (await asking).choices[0].message.content == "hello"
                else:
                    with pytest.raises(error):
                        await asking
            await paying.auth.aclose()


# --- providers that lie


@asynccontextmanager
async def closing(auth: MarketAuth) -> AsyncIterator[MarketAuth]:
    try:
        yield auth
    finally:
        await auth.aclose()


@pytest.mark.parametrize("lie", [{"cost": PROMPT * 10 + 3 * 30 + 1}, {"units_out": 4}, {}])
async def test_a_lie_ends_the_lease_for_this_client(
    tmp_path: Path, counter: PromptCounter, lie: dict[str, int]
) -> None:
    hostile = HostileProvider(PROMPT, changes=lie)
    async with serve(hostile.app()) as url:
        record = record_of(make_lease(make_offer().terms), url)
        store = Store(tmp_path / "store.sqlite", DOMAIN)
        store.add_lease(record)
        lease_client = LeaseClient(
            domain=DOMAIN,
            store=store,
            record=record,
            signer=SESSION,
            now=TestClock().now,
            counter=counter,
        )
        async with closing(MarketAuth(lease_client)) as auth:
            http: Any = httpx.AsyncClient(auth=auth)
            async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", http_client=http, max_retries=0) as client:

                async def ask() -> str:
                    stream = await client.chat.completions.create(**ASK, stream=True)
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

                if not lie:  # the same provider, honest
                    assert await ask() == "abc"
                    return
                for _ in range(2):
                    with pytest.raises(ReceiptRejected):
                        await ask()
        assert len({seen.context.seq for seen in hostile.seen}) == 1
        assert store.owed(record.lease_id) <= PROMPT * 10 + 3 * 30
        store.close()
