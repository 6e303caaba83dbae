"""A consumer with records of its own, for asking a real provider or a hostile one."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from consumer.lease_client import Event, LeaseClient, Question
from consumer.records import LeaseRecord
from consumer.store import Store
from consumer.tokenizer import PromptCounter
from provider.leases import Lease
from tests.consumer.hostile_provider import HostileProvider
from tests.support.provider_stack import (
    DEPOSIT,
    DOMAIN,
    NODE,
    SESSION,
    TestClock,
    make_lease,
    make_offer,
)
from tests.support.serving import serve
from tests.support.tiny_gguf import prompt_tokens

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


class Buyer:
    """A client with its own records."""

    def __init__(
        self,
        folder: Path,
        record: LeaseRecord,
        now: Callable[[], int],
        counter: PromptCounter | None,
        **options: Any,
    ) -> None:
        self.store = Store(folder / "consumer.sqlite", DOMAIN)
        self.store.add_lease(record)
        self.record = record
        self.lease_id = record.lease_id
        self.clock = TestClock()
        self.client = LeaseClient(
            domain=DOMAIN, store=self.store, record=record, signer=SESSION, now=now, counter=counter, **options
        )

    async def ask(self, question: Question = QUESTION) -> list[Event]:
        events = [event async for event in self.client.ask(question)]
        await self.client.finish()
        return events

    async def __aenter__(self) -> "Buyer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        self.store.close()

    @property
    def cumulative(self) -> int:
        """What the highest voucher pays; -1 before the first."""
        highest = self.store.highest_voucher(self.lease_id)
        return highest.message.cumulative if highest else -1


@asynccontextmanager
async def hostile(
    folder: Path, counter: PromptCounter | None, provider: HostileProvider, **options: Any
) -> AsyncIterator[Buyer]:
    """A buyer at a hostile provider; `deposit` is the lease's, other options are the client's."""
    lease = make_lease(make_offer().terms, deposit=options.pop("deposit", DEPOSIT))
    clock = TestClock()
    async with (
        serve(provider.app()) as url,
        Buyer(folder, record_of(lease, url), clock.now, counter, **options) as buyer,
    ):
        buyer.clock = clock
        yield buyer
