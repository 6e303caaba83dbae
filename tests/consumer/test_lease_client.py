"""Asking a real provider with the tiny model, and providers that lie or break off."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from consumer.exceptions import (
    ConsumerError,
    PrepayRejected,
    ProviderFailed,
    ProviderRefused,
    ReceiptRejected,
    TokenizerUnusable,
)
from consumer.lease_client import Checked, End, Question, Text
from consumer.node_keys import FOREVER
from consumer.records import RequestState
from consumer.tokenizer import PromptCounter
from protocol.chain.exceptions import RpcUnavailable
from protocol.chain.views import KeyRecord
from protocol.headers import RefusalCode
from protocol.signing import Signer
from protocol.stream import StreamToken, encode_line
from provider.backend import Prompt
from tests.consumer.buyer import MESSAGES, PROMPT, QUESTION, Buyer, hostile, record_of
from tests.consumer.hostile_provider import PRICE_IN, PRICE_OUT, HostileProvider, spelled
from tests.support.provider_stack import (
    PROVIDER,
    SESSION,
    ProviderStack,
    make_lease,
    make_offer,
    provider_stack,
)
from tests.support.tiny_gguf import FIRST_BYTE_TOKEN, VOCABULARY, prompt_tokens

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderStack]:
    async with provider_stack(tmp_path_factory.mktemp("provider"), credit=PROMPT * 10 + 150) as running:
        yield running


async def test_answer_is_paid_to_the_unit(stack: ProviderStack, tmp_path: Path, counter: PromptCounter) -> None:
    lease = stack.add_lease()
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, counter) as buyer:
        events = await buyer.ask()
        end = events[-1]
        assert isinstance(end, End)
        assert (end.tokens, end.finish_reason) == (20, "length")
        assert buyer.client.book.owed == end.receipt.message.cost == PROMPT * 10 + 20 * 30
        assert any(isinstance(event, Text) for event in events)
        assert sum(isinstance(event, Checked) for event in events) >= 3  # 8 + 8 + the rest, and more where it waited
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


async def test_without_tokenizer_nothing_is_asked(stack: ProviderStack, tmp_path: Path) -> None:
    lease = stack.add_lease()
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, None) as buyer:
        with pytest.raises(TokenizerUnusable, match="give the GGUF file of tiny-random"):
            await buyer.ask()
        assert buyer.store.highest_voucher(lease.lease_id) is None


async def test_counts_are_believed_only_where_that_is_asked_for(stack: ProviderStack, tmp_path: Path) -> None:
    lease = stack.add_lease()
    record = record_of(lease, stack.url)
    async with Buyer(tmp_path, record, stack.clock.now, None, accept_unverified=True) as buyer:
        end = (await buyer.ask())[-1]
        assert isinstance(end, End)
        assert end.receipt.message.units_in == PROMPT


async def test_counters_agree(stack: ProviderStack, counter: PromptCounter) -> None:
    for messages in ([{"role": "user", "content": "héllo\n日本"}], [{"role": "system", "content": ""}, *MESSAGES]):
        assert counter.count(messages) == await stack.engine.count(Prompt(messages)) == prompt_tokens(messages)


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


EXTRA = encode_line(StreamToken(FIRST_BYTE_TOKEN + 100, -5))
ERROR = "data: " + json.dumps({"error": {"message": "out of memory"}})
SPEAKS = PROMPT * PRICE_IN + 3 * PRICE_OUT


@pytest.mark.parametrize(
    ("lie", "error", "words"),
    [
        ({"changes": {"units_out": 4, "cost": SPEAKS + PRICE_OUT}}, ReceiptRejected, "units_out"),
        ({"changes": {"cost": SPEAKS + 1}}, ReceiptRejected, "cost"),
        ({"changes": {"response_hash": bytes(32)}}, ReceiptRejected, "response_hash"),
        ({"lines_after": [EXTRA]}, ReceiptRejected, "after the final"),
        ({"lines_after": ["RECEIPT"]}, ReceiptRejected, "part"),
        ({"changes": {"final": False}}, ProviderFailed, "without its final"),
        ({"sends_receipt": False}, ProviderFailed, "without its final"),
        ({"lines_before": ["data: {not json"]}, ProviderFailed, "malformed"),
        ({"lines_before": ['data: {"choices": [7]}']}, ProviderFailed, "malformed"),
        ({"lines_before": [": clawmarket token 1 2 3"]}, ProviderFailed, "malformed"),
        ({"lines_before": ["x" * 1_100_000]}, ProviderFailed, "too long"),
        ({"lines_after": [ERROR]}, ProviderFailed, "out of memory"),
    ],
)
async def test_lies_are_noticed(
    tmp_path: Path, counter: PromptCounter, lie: dict[str, Any], error: type[ConsumerError], words: str
) -> None:
    async with hostile(tmp_path, counter, HostileProvider(PROMPT, **lie)) as buyer:
        with pytest.raises(error, match=words):
            await buyer.ask()
        assert buyer.cumulative <= SPEAKS


@pytest.mark.parametrize(
    ("answer", "stop", "words"),
    [
        ([(StreamToken(0, -5), "")] * 20, (), "carry no text"),
        ([(StreamToken(2, -5), "")] * 20, (), "carry no text"),
        ([(token, "") for token, _ in spelled("hidden")], (), "not delivered"),
        ([(token, "x") for token, _ in spelled("other")], (), "not what the tokens read as"),
        ([*spelled("abc"), (StreamToken(VOCABULARY, -5), "d")], (), "not in the vocabulary"),
        (spelled("abc", logprob=1), (), "log-probability"),
        (spelled("abc", logprob=-(1 << 31)), (), "log-probability"),
        (spelled("a" * 21), (), "more than the 20 tokens"),
        ([*spelled("ab"), (spelled("c")[0][0], ""), *spelled("more")], ("c",), "after the end"),
    ],
)
async def test_padding_is_not_paid(
    tmp_path: Path, counter: PromptCounter, answer: list[tuple[StreamToken, str]], stop: tuple[str, ...], words: str
) -> None:
    provider = HostileProvider(PROMPT, answer)
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ReceiptRejected, match=words):
            await buyer.ask(replace(QUESTION, stop=stop))
        await buyer.client.close()
        assert buyer.cumulative == 0
        lease_id = buyer.lease_id
        assert buyer.store.state(lease_id, 0) is RequestState.DISPUTED
        assert buyer.store.promised(lease_id) == 0
    assert provider.paid == []
    assert len(provider.seen) == 1


async def test_honest_stand_in_is_accepted(tmp_path: Path, counter: PromptCounter) -> None:
    async with hostile(tmp_path, counter, HostileProvider(PROMPT)) as buyer:
        assert isinstance((await buyer.ask())[-1], End)
        assert buyer.cumulative == SPEAKS


async def test_a_rotated_node_key_is_found_out_and_kept(tmp_path: Path, counter: PromptCounter) -> None:
    new = Signer(b"\x12" * 32)

    def lookup(key: str) -> KeyRecord:
        return KeyRecord(PROVIDER, 0, FOREVER) if key == new.address else KeyRecord(0, 0, 0)

    async with hostile(tmp_path, counter, HostileProvider(PROMPT, signer=new), key_lookup=lookup) as buyer:
        assert isinstance((await buyer.ask())[-1], End)
        assert buyer.store.lease(buyer.lease_id).node_key == new.address


async def test_a_key_that_is_not_the_providers_is_not_paid(tmp_path: Path, counter: PromptCounter) -> None:
    def lookup(_: str) -> KeyRecord:
        return KeyRecord(PROVIDER + 1, 0, FOREVER)

    async with hostile(tmp_path, counter, HostileProvider(PROMPT), key_lookup=lookup) as buyer:
        with pytest.raises(ReceiptRejected, match="node key"):
            await buyer.ask()
        await buyer.client.close()
        assert (buyer.cumulative, buyer.store.promised(buyer.lease_id)) == (0, 0)


async def test_a_receipt_waits_for_a_registry_that_cannot_be_asked(tmp_path: Path, counter: PromptCounter) -> None:
    new, answers = Signer(b"\x12" * 32), [False]

    def lookup(_: str) -> KeyRecord:
        if not answers[0]:
            raise RpcUnavailable("no RPC endpoint answers")
        return KeyRecord(PROVIDER, 0, FOREVER)

    async with hostile(tmp_path, counter, HostileProvider(PROMPT, signer=new), key_lookup=lookup) as buyer:
        with pytest.raises(ProviderFailed, match="registry cannot be asked"):
            await buyer.ask()
        answers[0] = True
        await buyer.client.resolve()
        await buyer.client.close()
        assert (buyer.cumulative, buyer.store.promised(buyer.lease_id)) == (SPEAKS, 0)


async def test_stopped_answer_is_paid_to_the_token(
    stack: ProviderStack, tmp_path: Path, counter: PromptCounter
) -> None:
    lease = stack.add_lease()
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, counter) as buyer:
        whole = "".join(event.text for event in await buyer.ask() if isinstance(event, Text))
        stop = whole[5:7]
        events = await buyer.ask(replace(QUESTION, stop=(stop,)))
        assert "".join(event.text for event in events if isinstance(event, Text)) == whole[: whole.index(stop)]
        end = events[-1]
        assert isinstance(end, End)
        assert end.finish_reason == "stop"
        assert end.tokens < 20
    account = stack.ledger.account(lease.lease_id)
    assert account.cumulative == account.served


async def test_a_prompt_within_the_credit_cap_is_not_prepaid(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, refusal=(RefusalCode.PREPAY, {"credit_cap": str(PROMPT * PRICE_IN)}))
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ProviderRefused, match="prepay"):
            await buyer.ask()
        assert buyer.cumulative == 0
        assert buyer.store.promised(buyer.lease_id) == 0
    assert {seen.voucher.message.cumulative for seen in provider.seen} == {0}


@pytest.mark.parametrize("details", [{}, {"credit_cap": "much"}])
async def test_nothing_is_prepaid_where_no_credit_cap_is_named(
    tmp_path: Path, counter: PromptCounter, details: dict[str, str]
) -> None:
    provider = HostileProvider(PROMPT, refusal=(RefusalCode.PREPAY, details))
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(PrepayRejected, match="credit cap"):
            await buyer.ask()
        assert buyer.cumulative == 0
    assert len(provider.seen) == 1


async def test_prepayment_is_the_prompts_own_cost_and_never_more(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, refusal=(RefusalCode.PREPAY, {"credit_cap": "0", "prompt_cost": "9999999"}))
    async with hostile(tmp_path, counter, provider) as buyer:
        for _ in range(2):
            with pytest.raises(ProviderRefused):
                await buyer.ask()
            assert buyer.cumulative == PROMPT * PRICE_IN
    # what was prepaid and not served counts for the next request
    assert {seen.voucher.message.cumulative for seen in provider.seen} == {0, PROMPT * PRICE_IN}


async def test_without_tokenizer_nothing_is_prepaid(tmp_path: Path) -> None:
    provider = HostileProvider(PROMPT, refusal=(RefusalCode.PREPAY, {"credit_cap": "0"}))
    async with hostile(tmp_path, None, provider, accept_unverified=True) as buyer:
        with pytest.raises(PrepayRejected, match="tokenizer"):
            await buyer.ask()
        assert buyer.cumulative == 0


async def test_unpaid_does_not_lead_to_a_prepayment(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, refusal=(RefusalCode.UNPAID, {"credit_cap": "0"}))
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ProviderRefused, match="unpaid"):
            await buyer.ask()
        assert buyer.cumulative == 0


@pytest.mark.parametrize("content", [None, b"no model"])
async def test_unusable_tokenizer_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerUnusable, match=r"model\.gguf"):
        PromptCounter(path)
