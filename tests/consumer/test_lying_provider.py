"""Every lie of the lying provider is found, nothing is paid for it, and what it honestly served is paid."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer import lease_client
from consumer.exceptions import ProviderFailed, ProviderRefused, ReceiptRejected, StoreError
from consumer.lease_client import Question, Text
from consumer.store import Store
from consumer.tokenizer import PromptCounter
from protocol.headers import RefusalCode, Signed
from protocol.typed_data import Receipt
from tests.consumer.buyer import MESSAGES, PROMPT, Buyer, record_of
from tests.support.lies import Lies, ReceiptLies, name_of
from tests.support.lying_provider import TEXT, Identity, LyingProvider
from tests.support.provider_stack import DOMAIN, NODE, PROVIDER, SESSION, TestClock, make_lease, make_offer
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio
PRICE_IN, PRICE_OUT = 10, 30
PART = 8
QUESTION = Question(MESSAGES, max_tokens=256, temperature=0)


def cost(tokens: int) -> int:
    return PROMPT * PRICE_IN + tokens * PRICE_OUT


@dataclass
class Dealing:
    """A lying provider and who buys from it."""

    provider: LyingProvider
    buyer: Buyer

    async def ask(self) -> str:
        return "".join([event.text for event in await self.buyer.ask(QUESTION) if isinstance(event, Text)])


@asynccontextmanager
async def dealing(folder: Path, counter: PromptCounter, lies: Lies) -> AsyncIterator[Dealing]:
    offer = make_offer()
    lease = make_lease(offer.terms)
    async with (
        LyingProvider(Identity(DOMAIN, PROVIDER, NODE, offer), lies, part_every=PART) as provider,
        Buyer(folder, record_of(lease, provider.url), TestClock().now, counter) as buyer,
    ):
        yield Dealing(provider, buyer)


@pytest.mark.parametrize(
    "lies", [Lies(), Lies(ReceiptLies(clock_s=60)), Lies(text="Another model would say this."), Lies(logprob=-500)]
)
async def test_what_looks_honest_is_paid_to_the_last_unit(tmp_path: Path, counter: PromptCounter, lies: Lies) -> None:
    async with dealing(tmp_path, counter, lies) as found:
        told = await found.ask()
        assert told == (lies.text or TEXT)
        assert found.buyer.cumulative == cost(len(told))
        await until(lambda: found.provider.paid[-1:] == [cost(len(told))])


@pytest.mark.parametrize(
    ("lies", "field", "paid"),
    [
        (Lies(ReceiptLies(percent_in=1)), "units_in", 0),
        (Lies(ReceiptLies(percent_out=1)), "units_out", 0),
        (Lies(ReceiptLies(price_in=1)), "cost", 0),
        (Lies(ReceiptLies(price_out=1)), "cost", 0),
        (Lies(ReceiptLies(clock_s=180)), "ended_at", 0),
        (Lies(ReceiptLies(clock_s=-180)), "ended_at", 0),
        (Lies(ReceiptLies(part_gap=1)), "part", PART),
        (Lies(ReceiptLies(falls_by=1)), "cost", PART),
        (Lies(ReceiptLies(is_other_model=True)), "model_fingerprint", 0),
        (Lies(ReceiptLies(is_other_request=True)), "request_hash", 0),
        (Lies(ReceiptLies(is_other_answer=True)), "response_hash", 0),
        (Lies(ReceiptLies(other_key=SESSION)), "signature", 0),
        (Lies(unsigned_text_at=3), "text", 0),
        (Lies(silent_token_at=3), "text", 0),
        (Lies(silent_token_at=PART + 3), "text", PART),
    ],
    ids=lambda value: name_of(value) if isinstance(value, Lies) else None,
)
async def test_a_lie_is_found_and_only_what_came_before_it_is_paid(
    tmp_path: Path, counter: PromptCounter, monkeypatch: pytest.MonkeyPatch, lies: Lies, field: str, paid: int
) -> None:
    monkeypatch.setattr(lease_client, "REPEAT_PAUSES_S", ())  # what is true in the end is asked for at another time
    async with dealing(tmp_path, counter, lies) as found:
        with pytest.raises(ReceiptRejected) as caught:
            await found.ask()
        assert caught.value.field == field
        await found.buyer.client.finish()
        assert found.buyer.cumulative == (cost(paid) if paid else 0)


@pytest.mark.parametrize(
    "lies",
    [Lies(cut_after_tokens=12), Lies(half_closes_after=12), Lies(cut_after_bytes=4000)],
    ids=name_of,
)
async def test_a_cut_answer_is_paid_by_its_stored_receipt(tmp_path: Path, counter: PromptCounter, lies: Lies) -> None:
    async with dealing(tmp_path, counter, lies) as found:
        with pytest.raises(ProviderFailed):
            await found.ask()
        await found.buyer.client.close()
        (seen,) = found.provider.seen
        assert seen.has_ended
        assert 0 < seen.receipts[-1].message.units_out < len(TEXT)
        assert found.buyer.cumulative == seen.receipts[-1].message.cost


async def test_without_final_receipt_the_last_part_is_paid(tmp_path: Path, counter: PromptCounter) -> None:
    async with dealing(tmp_path, counter, Lies(ReceiptLies(is_missing=True))) as found:
        with pytest.raises(ProviderFailed, match="final receipt"):
            await found.ask()
        await until(lambda: found.buyer.cumulative == cost(len(TEXT) // PART * PART))


async def test_what_the_disk_did_not_take_is_paid_once_it_does(
    tmp_path: Path, counter: PromptCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is honest: nothing of it is disputed, though its receipt is seen a second time."""
    monkeypatch.setattr(lease_client, "PAY_PAUSES_S", ())
    record, refusals = Store.record_receipt, iter([True])

    def on_a_full_disk(store: Store, signed: Signed[Receipt], owed: int | None = None) -> None:
        if signed.message.final and next(refusals, False):
            raise StoreError("the disk is full")
        record(store, signed, owed)

    monkeypatch.setattr(Store, "record_receipt", on_a_full_disk)
    async with dealing(tmp_path, counter, Lies()) as found:
        assert await found.ask() == TEXT
        assert found.buyer.cumulative == cost(len(TEXT))
        assert next(refusals, None) is None
        assert found.buyer.store.unfinished(found.buyer.lease_id) == []


@pytest.mark.parametrize("lies", [Lies(is_silent=True), Lies(stalls_after=0), Lies(stalls_after=12)], ids=name_of)
async def test_a_silent_provider_is_left_and_paid_for_what_it_gave(
    tmp_path: Path, counter: PromptCounter, lies: Lies
) -> None:
    async with dealing(tmp_path, counter, lies) as found:
        asking = asyncio.create_task(found.ask())
        await until(lambda: found.provider.seen and (not lies.stalls_after or found.buyer.cumulative > 0))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        given = lies.stalls_after or 0
        if given:
            await until(lambda: found.buyer.cumulative == cost(given))
        else:
            assert found.buyer.cumulative == 0


@pytest.mark.parametrize(
    ("lies", "status", "code"),
    [(Lies(retry_after_s=7), 429, "rate_limited"), (Lies(is_busy=True), 503, RefusalCode.BUSY)],
)
async def test_a_refusal_costs_nothing(
    tmp_path: Path, counter: PromptCounter, lies: Lies, status: int, code: str
) -> None:
    async with dealing(tmp_path, counter, lies) as found:
        with pytest.raises(ProviderRefused) as caught:
            await found.ask()
        assert (caught.value.status, caught.value.code) == (status, code)
        found.provider.lies = Lies()
        assert await found.ask() == TEXT
        assert found.buyer.cumulative == cost(len(TEXT))
