"""Asking a real provider with the tiny model, and providers that lie or break off."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from consumer.client import Checked, End, Event, LeaseClient, Question, Text
from consumer.exceptions import ConsumerError, ProviderFailed, ProviderRefused, ReceiptRejected, TokenizerUnusable
from consumer.store import LeaseRecord, Store
from consumer.tokenizer import PromptCounter
from protocol.headers import VERSION, VERSION_HEADER, Signed, parse_request_headers
from protocol.merkle import ResponseRoot
from protocol.stream import StreamToken, encode_line
from protocol.typed_data import Receipt
from provider.leases import Lease
from tests.support.engines import tiny_model
from tests.support.provider_stack import (
    DOMAIN,
    NODE,
    SESSION,
    ProviderStack,
    make_lease,
    make_offer,
    provider_stack,
    serve,
)
from tests.support.tiny_gguf import prompt_tokens

pytestmark = pytest.mark.asyncio(loop_scope="module")
MESSAGES = [{"role": "user", "content": "hello"}]
QUESTION = Question(MESSAGES, max_tokens=20, temperature=0)
PROMPT = prompt_tokens(MESSAGES)


def record_of(lease: Lease, endpoint: str, stack_offer: Any = None) -> LeaseRecord:
    offer = stack_offer or make_offer()
    return LeaseRecord(
        lease_id=lease.lease_id,
        owner=lease.owner,
        provider=lease.provider,
        offer_id=1,
        version=1,
        token=lease.token,
        deposit=lease.deposit,
        expiry=lease.expiry,
        signer=SESSION.address,
        key_file="",
        endpoint=endpoint,
        node_key=NODE.address,
        model=offer.model_name,
        fingerprint=offer.fingerprint,
        terms=offer.terms,
    )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderStack]:
    async with provider_stack(tmp_path_factory.mktemp("provider"), credit=PROMPT * 10 + 150) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def counter() -> AsyncIterator[PromptCounter]:
    found = PromptCounter(tiny_model())
    yield found
    found.close()


class Buyer:
    """A client with its own records."""

    def __init__(
        self, folder: Path, record: LeaseRecord, now: Callable[[], int], counter: PromptCounter | None
    ) -> None:
        self.store = Store(folder / "consumer.sqlite", DOMAIN)
        self.store.add_lease(record)
        self.client = LeaseClient(
            domain=DOMAIN, store=self.store, record=record, signer=SESSION, now=now, counter=counter
        )

    async def ask(self, question: Question = QUESTION) -> list[Event]:
        return [event async for event in self.client.ask(question)]

    async def __aenter__(self) -> "Buyer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        self.store.close()


async def test_answer_is_paid_to_the_unit(stack: ProviderStack, tmp_path: Path, counter: PromptCounter) -> None:
    lease = stack.add_lease()
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, counter) as buyer:
        events = await buyer.ask()
        end = events[-1]
        assert isinstance(end, End)
        assert (end.tokens, end.finish_reason) == (20, "length")
        assert end.voucher.message.cumulative == end.receipt.message.cost == PROMPT * 10 + 20 * 30
        assert any(isinstance(event, Text) for event in events)
        assert sum(isinstance(event, Checked) for event in events) > 3
        events = await buyer.ask()
        assert isinstance(events[-1], End)
        both = end.receipt.message.cost + events[-1].receipt.message.cost
        assert events[-1].receipt.message.units_cached > 0
    assert stack.ledger.account(lease.lease_id).cumulative == both == stack.ledger.account(lease.lease_id).served


async def test_parallel_questions_agree_on_the_sum(
    stack: ProviderStack, tmp_path: Path, counter: PromptCounter
) -> None:
    lease = stack.add_lease()
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, counter) as buyer:
        answers = await asyncio.gather(*[buyer.ask() for _ in range(3)])
        total = sum(answer[-1].receipt.message.cost for answer in answers if isinstance(answer[-1], End))
        assert buyer.store.owed(lease.lease_id) == total
    assert stack.ledger.account(lease.lease_id).cumulative == total


async def test_dear_prompt_is_prepaid_after_the_provider_asks(
    stack: ProviderStack, tmp_path: Path, counter: PromptCounter
) -> None:
    lease = stack.add_lease()
    long = Question([{"role": "user", "content": "x" * 100}], max_tokens=5, temperature=0)
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, counter) as buyer:
        events = await buyer.ask(long)
        assert isinstance(events[-1], End)
        assert events[-1].receipt.message.seq == 1
    assert stack.ledger.account(lease.lease_id).cumulative == events[-1].receipt.message.cost


async def test_without_tokenizer_a_bound_is_authorised(stack: ProviderStack, tmp_path: Path) -> None:
    lease = stack.add_lease()
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, None) as buyer:
        end = (await buyer.ask())[-1]
        assert isinstance(end, End)
        assert end.receipt.message.units_in == PROMPT


async def test_counters_agree(stack: ProviderStack, counter: PromptCounter) -> None:
    for messages in ([{"role": "user", "content": "héllo\n日本"}], [{"role": "system", "content": ""}, *MESSAGES]):
        assert counter.count(messages) == await stack.service.engine.count(messages) == prompt_tokens(messages)


async def test_refusals_carry_their_code(stack: ProviderStack, tmp_path: Path, counter: PromptCounter) -> None:
    lease = stack.add_lease(is_revoked=True)
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, counter) as buyer:
        with pytest.raises(ProviderRefused) as refusal:
            await buyer.ask()
        assert refusal.value.code == "lease_ended"
        assert buyer.store.promised(lease.lease_id) == 0


async def test_wrong_node_key_is_not_paid(stack: ProviderStack, tmp_path: Path, counter: PromptCounter) -> None:
    lease = stack.add_lease()
    record = replace(record_of(lease, stack.url), node_key=SESSION.address)
    async with Buyer(tmp_path, record, stack.clock.now, counter) as buyer:
        with pytest.raises(ReceiptRejected, match="node key"):
            await buyer.ask()
        highest = buyer.store.highest_voucher(lease.lease_id)
        assert highest is not None
        assert highest.message.cumulative == 0


async def test_nobody_listening_is_a_clear_error(tmp_path: Path, counter: PromptCounter) -> None:
    lease = make_lease(make_offer().terms)
    async with Buyer(tmp_path, record_of(lease, "http://127.0.0.1:1"), lambda: 1_700_000_000, counter) as buyer:
        with pytest.raises(ProviderFailed, match="connection"):
            await buyer.ask()


def lying_provider(lie: str) -> FastAPI:
    """A provider that answers three tokens and lies in one way."""
    app = FastAPI()
    offer = make_offer()

    @app.post("/v1/leases/{lease_id}/vouchers")
    async def vouchers(lease_id: str) -> Response:
        return Response(status_code=204)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        voucher, context = parse_request_headers(request.headers.items())
        root = ResponseRoot()
        lines = []
        for token in range(3):
            root.append(token, -5)
            lines.append(encode_line(StreamToken(token, -5)))
        out = 3
        if lie == "counts more":
            out = 4
        receipt = Receipt(
            lease_id=voucher.message.lease_id,
            seq=context.seq,
            part=0,
            final=lie != "no final",
            cost=PROMPT * 10 + out * 30 + (1 if lie == "charges more" else 0),
            units_in=PROMPT,
            units_out=out,
            units_cached=0,
            request_hash=context.request_hash,
            response_hash=bytes(32) if lie == "other answer" else root.root(),
            ttft_ms=0,
            duration_ms=1,
            ended_at=context.sent_at,
            model_fingerprint=offer.fingerprint,
        )
        signed = encode_line(Signed(receipt, NODE.sign(DOMAIN, receipt)))
        lines.append(signed)
        if lie == "goes on":
            lines.append(encode_line(StreamToken(9, -5)))
        if lie == "two finals":
            lines.append(signed)
        if lie == "garbage":
            lines.insert(0, "data: {not json")
        if lie == "bad line":
            lines.insert(0, ": clawmarket token 1 2 3")
        if lie == "gives up":
            lines.append("data: " + json.dumps({"error": {"message": "out of memory"}}))
        if lie == "no receipt":
            lines.remove(signed)
        content = "\n\n".join(lines) + "\n\n"
        return StreamingResponse(iter([content]), media_type="text/event-stream", headers={VERSION_HEADER: VERSION})

    return app


@pytest.mark.parametrize(
    ("lie", "error", "words"),
    [
        ("counts more", ReceiptRejected, "units_out"),
        ("charges more", ReceiptRejected, "cost"),
        ("other answer", ReceiptRejected, "response_hash"),
        ("goes on", ReceiptRejected, "after the final"),
        ("two finals", ReceiptRejected, "part"),
        ("no final", ProviderFailed, "without its final"),
        ("no receipt", ProviderFailed, "without its final"),
        ("garbage", ProviderFailed, "malformed"),
        ("bad line", ProviderFailed, "malformed"),
        ("gives up", ProviderFailed, "out of memory"),
    ],
)
async def test_lies_are_noticed(
    tmp_path: Path, counter: PromptCounter, lie: str, error: type[ConsumerError], words: str
) -> None:
    lease = make_lease(make_offer().terms)
    async with (
        serve(lying_provider(lie)) as url,
        Buyer(tmp_path, record_of(lease, url), lambda: int(time.time()), counter) as buyer,
    ):
        with pytest.raises(error, match=words):
            await buyer.ask()
        highest = buyer.store.highest_voucher(lease.lease_id)
        assert highest is not None
        assert highest.message.cumulative <= PROMPT * 10 + 3 * 30


async def test_honest_stand_in_is_accepted(tmp_path: Path, counter: PromptCounter) -> None:
    lease = make_lease(make_offer().terms)
    async with (
        serve(lying_provider("none")) as url,
        Buyer(tmp_path, record_of(lease, url), lambda: int(time.time()), counter) as buyer,
    ):
        assert isinstance((await buyer.ask())[-1], End)


@pytest.mark.parametrize("content", [None, b"no model"])
async def test_unusable_tokenizer_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerUnusable, match=r"model\.gguf"):
        PromptCounter(path)
