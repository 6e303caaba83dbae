"""Requests whose stream did not come to its end are brought to one, and paid as far as that is right."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from consumer.checks import most_cost
from consumer.exceptions import LeaseExhausted, ProviderFailed, ProviderRefused, ReceiptRejected
from consumer.lease_client import UNSEEN_TOKENS, End, LeaseClient, Text
from consumer.records import RequestState
from consumer.tokenizer import PromptCounter
from protocol.headers import MAX_CLOCK_SKEW_S, RefusalCode
from tests.consumer.buyer import PROMPT, QUESTION, Buyer, hostile, record_of
from tests.consumer.hostile_provider import PRICE_IN, PRICE_OUT, HostileProvider, spelled
from tests.support.provider_stack import (
    DOMAIN,
    SESSION,
    ProviderStack,
    TestClock,
    make_offer,
    provider_stack,
)
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG = replace(QUESTION, max_tokens=100)
MOST = most_cost(make_offer().terms, PROMPT, QUESTION.max_tokens)


def price(tokens: int) -> int:
    return PROMPT * PRICE_IN + tokens * PRICE_OUT


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderStack]:
    async with provider_stack(tmp_path_factory.mktemp("provider"), credit=PROMPT * 10 + 150) as running:
        yield running


def again(buyer: Buyer, counter: PromptCounter) -> LeaseClient:
    """Another client on the same records, as after a restart."""
    record = buyer.store.lease(buyer.lease_id)
    return LeaseClient(
        domain=DOMAIN, store=buyer.store, record=record, signer=SESSION, now=buyer.clock.now, counter=counter
    )


async def test_a_stopped_question_is_paid_and_frees_the_rest(
    stack: ProviderStack, tmp_path: Path, counter: PromptCounter
) -> None:
    lease = stack.add_lease()
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, counter) as buyer:
        async with aclosing(buyer.client.ask(LONG)) as events:
            async for event in events:
                if isinstance(event, Text):
                    break
        await buyer.client.close()
        assert buyer.store.state(lease.lease_id, 0) is RequestState.SETTLED
        assert buyer.store.promised(lease.lease_id) == 0
        await until(lambda: stack.ledger.account(lease.lease_id).cumulative == buyer.cumulative)
        account = stack.ledger.account(lease.lease_id)
        assert price(1) <= account.served == account.cumulative < price(100)
        client = again(buyer, counter)
        assert isinstance([event async for event in client.ask(QUESTION)][-1], End)
        await client.close()


async def test_a_broken_stream_is_settled_by_the_stored_receipt(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, spelled("a" * 12), part_after=8, breaks_after=12, is_busy=2)
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ProviderFailed, match="broke"):
            await buyer.ask()
        await buyer.client.close()
        assert buyer.cumulative == provider.paid[-1] == price(12)
        assert buyer.store.state(buyer.lease_id, 0) is RequestState.SETTLED
        assert buyer.store.promised(buyer.lease_id) == 0
    first, *repeats = provider.seen
    assert len(repeats) == 3
    assert all((seen.body, seen.headers) == (first.body, first.headers) for seen in repeats)


async def test_tokens_that_never_came_are_paid_for_one_chunk_at_most(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, spelled("a" * 90), breaks_after=10)
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ProviderFailed):
            await buyer.ask(LONG)
        await buyer.client.close()
        assert buyer.cumulative == price(10 + UNSEEN_TOKENS)


async def test_tokens_that_never_came_need_not_be_paid(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, spelled("a" * 90), breaks_after=10)
    async with hostile(tmp_path, counter, provider, unseen_tokens=0) as buyer:
        with pytest.raises(ProviderFailed):
            await buyer.ask(LONG)
        await buyer.client.close()
        assert buyer.cumulative == price(10)


async def test_nothing_unseen_is_paid_after_a_wrong_receipt(tmp_path: Path, counter: PromptCounter) -> None:
    unseen = {"units_out": 9, "cost": price(9)}
    provider = HostileProvider(PROMPT, changes={"cost": price(3) + 1}, stored_changes=unseen)
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ReceiptRejected, match="cost"):
            await buyer.ask()
        await buyer.client.close()
        assert buyer.cumulative == price(3)


async def test_a_wrong_receipt_is_mended_by_the_right_one(tmp_path: Path, counter: PromptCounter) -> None:
    async with hostile(tmp_path, counter, HostileProvider(PROMPT, changes={"cost": price(3) + 1})) as buyer:
        with pytest.raises(ReceiptRejected, match="cost"):
            await buyer.ask()
        await buyer.client.close()
        assert (buyer.cumulative, buyer.store.promised(buyer.lease_id)) == (price(3), 0)
        assert buyer.store.state(buyer.lease_id, 0) is RequestState.SETTLED


@pytest.mark.parametrize(
    "lie", [{"cost": price(3) + 1}, {"response_hash": bytes(32)}, {"units_in": 1}, {"request_hash": bytes(32)}]
)
async def test_a_provider_that_insists_is_paid_nothing_more(
    tmp_path: Path, counter: PromptCounter, lie: dict[str, Any]
) -> None:
    provider = HostileProvider(PROMPT, changes=lie, stored_changes=lie)
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ReceiptRejected):
            await buyer.ask()
        await buyer.client.close()
        assert (buyer.cumulative, buyer.store.promised(buyer.lease_id)) == (0, 0)
        assert buyer.store.state(buyer.lease_id, 0) is RequestState.DISPUTED
    assert provider.paid == []


async def test_a_deposit_tied_to_a_broken_request_is_free_for_the_next(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, breaks_after=2)
    async with hostile(tmp_path, counter, provider, deposit=MOST + price(3)) as buyer:
        for number in range(2):
            with pytest.raises((ProviderFailed, LeaseExhausted)) as failure:
                await buyer.ask()
            assert isinstance(failure.value, ProviderFailed), f"request {number}"


async def test_a_restart_settles_what_an_earlier_run_left(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, spelled("a" * 12), part_after=8, breaks_after=12, is_busy=10_000)
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ProviderFailed):
            await buyer.ask()
        await buyer.client.close()
        assert buyer.store.promised(buyer.lease_id) == MOST - price(8)
        provider.is_busy = 0
        buyer.clock.shift = 10_000
        client = again(buyer, counter)
        await client.resolve()
        await client.close()
        assert (buyer.cumulative, buyer.store.promised(buyer.lease_id)) == (price(12), 0)


async def test_a_request_the_provider_never_took_is_released_when_its_time_is_over(
    tmp_path: Path, counter: PromptCounter
) -> None:
    provider = HostileProvider(PROMPT, fails=True)
    async with hostile(tmp_path, counter, provider) as buyer:
        with pytest.raises(ProviderRefused, match="http_500"):
            await buyer.ask()
        await buyer.client.resolve()
        # the provider may not know it: sent again now, it would be served now
        assert len(provider.seen) == 1
        assert buyer.store.promised(buyer.lease_id) == MOST
        provider.fails = False
        provider.refusal = (RefusalCode.CLOCK, {})
        buyer.clock.shift = MAX_CLOCK_SKEW_S + 2
        await buyer.client.resolve()
        assert len(provider.seen) == 2
        assert buyer.store.promised(buyer.lease_id) == 0
        assert buyer.store.state(buyer.lease_id, 0) is RequestState.REFUSED


async def test_an_unreachable_provider_ties_nothing(tmp_path: Path, counter: PromptCounter) -> None:
    async with hostile(tmp_path, counter, HostileProvider(PROMPT)) as buyer:
        pass
    clock = TestClock()
    record = replace(buyer.record, endpoint="http://127.0.0.1:1")
    async with Buyer(tmp_path, record, clock.now, counter) as buyer:
        with pytest.raises(ProviderFailed, match="connection"):
            await buyer.ask()
        assert buyer.store.promised(buyer.lease_id) == 0


async def test_a_repeat_that_is_answered_anew_is_not_paid(tmp_path: Path, counter: PromptCounter) -> None:
    provider = HostileProvider(PROMPT, breaks_after=2)
    async with hostile(tmp_path, counter, provider) as buyer:
        provider.keeps_receipts = False
        with pytest.raises(ProviderFailed):
            await buyer.ask()
        await buyer.client.close()
        assert buyer.store.state(buyer.lease_id, 0) is RequestState.DISPUTED
        assert (buyer.cumulative, buyer.store.promised(buyer.lease_id)) == (0, 0)


async def test_running_questions_are_left_alone(stack: ProviderStack, tmp_path: Path, counter: PromptCounter) -> None:
    lease = stack.add_lease()
    async with Buyer(tmp_path, record_of(lease, stack.url), stack.clock.now, counter) as buyer:
        async with aclosing(buyer.client.ask(LONG)) as events:
            await anext(events)
            await buyer.client.resolve()
            await until(lambda: buyer.store.state(lease.lease_id, 0) is RequestState.ADMITTED)
            rest = [event async for event in events]
        assert isinstance(rest[-1], End)
