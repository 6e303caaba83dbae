"""A real foreign server, `llama_cpp.server`, behind an offer: billed as our engine would bill, and paid."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.exceptions import ConsumerError
from consumer.lease_client import Checked, End, Question, Text
from consumer.records import OWN_ENGINE
from consumer.tokenizer import PromptCounter
from protocol.sandboxes import SandboxTier
from provider.backend import Done, GenerationRequest, Prompt, Token
from provider.backends.openai import OpenAIBackend
from provider.config import BackendSection
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.model_card import FOREIGN_ENGINE, describe_model, engine_build
from provider.offers import Offer, make_document, make_terms
from scripts.default_model import NAME, default_model
from tests.consumer.buyer import Buyer, record_of
from tests.support.engine_slots import hold_engine_slots
from tests.support.llama_server import LlamaServer, llama_server
from tests.support.provider_stack import TOKEN, ProviderStack, provider_stack

CONTEXT = 512
SETTINGS = EngineSettings(default_model(), threads=2, parallel=1, context=CONTEXT)
MESSAGES = [{"role": "user", "content": "Name the capital of France."}]
ASKED = Question(MESSAGES, max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module", autouse=True)
def slots() -> Iterator[None]:
    with hold_engine_slots(2):
        yield


@pytest.fixture(scope="module")
def server(slots: None) -> Iterator[LlamaServer]:
    with llama_server(default_model(), NAME, CONTEXT) as running:
        yield running


def offer() -> Offer:
    entry = describe_model(default_model(), NAME)
    model = entry.terms_model(engine=FOREIGN_ENGINE, build=engine_build(FOREIGN_ENGINE), context_length=CONTEXT)
    document = make_document(
        model, max_units_in=CONTEXT, max_units_out=CONTEXT, max_concurrent=4, sandbox=SandboxTier.NONE
    )
    terms = make_terms(document, token=TOKEN, price_in=10, price_out=30, price_cached=5, unit_scale=1)
    return Offer(1, 1, terms, document)


@asynccontextmanager
async def shop(
    folder: Path, server: LlamaServer, engine: str = FOREIGN_ENGINE
) -> AsyncIterator[tuple[ProviderStack, Buyer]]:
    """A provider in front of the server, and a buyer who counts with the model's tokenizer."""
    backend = OpenAIBackend(BackendSection(url=server.url, model=NAME), None, SETTINGS, BareHost())
    sold = offer()
    counter = PromptCounter(default_model())
    async with provider_stack(folder, backend=backend, offer=sold, credit=100_000) as stack:
        lease = stack.add_lease()
        record = replace(record_of(lease, stack.url, sold), engine=engine)
        async with Buyer(folder, record, stack.clock.now, counter) as buyer:
            yield stack, buyer
    counter.close()


async def own_answer() -> tuple[str, Done]:
    engine = EngineClient(SETTINGS, BareHost())
    await engine.start()
    try:
        request = GenerationRequest(Prompt(messages=list(MESSAGES)), ASKED.max_tokens, temperature=0.0)
        events = [event async for event in await engine.generate(request)]
    finally:
        await engine.stop()
    done = events[-1]
    assert isinstance(done, Done)
    return "".join(event.text for event in events if isinstance(event, Token)) + done.text, done


async def test_text_and_bill_are_those_of_our_engine(server: LlamaServer, tmp_path: Path) -> None:
    text, done = await own_answer()
    async with shop(tmp_path, server) as (stack, buyer):
        events = await buyer.ask(ASKED)
        end = events[-1]
        assert isinstance(end, End)
        assert "".join(event.text for event in events if isinstance(event, Text)) == text
        receipt = end.receipt.message
        assert (receipt.units_in, receipt.units_out) == (done.prompt_tokens, done.generated_tokens)
        assert receipt.cost == done.prompt_tokens * 10 + done.generated_tokens * 30 == buyer.cumulative
        assert stack.ledger.account(buyer.lease_id).served == receipt.cost
        stack.ledger.check()


async def test_terms_that_name_our_engine_demand_probabilities(server: LlamaServer, tmp_path: Path) -> None:
    """The control: what the other engine may leave out is paid only because the terms say so."""
    async with shop(tmp_path, server, OWN_ENGINE) as (_, buyer):
        with pytest.raises(ConsumerError, match="log-probability"):
            await buyer.ask(ASKED)
        assert buyer.cumulative <= 0


async def ask_and_kill(buyer: Buyer, question: Question, server: LlamaServer) -> None:
    seen = 0
    async for event in buyer.client.ask(question):
        seen += isinstance(event, Text | Checked)
        if seen == 5:
            await asyncio.to_thread(server.kill)


async def test_killed_server_ends_one_answer_and_serves_again(server: LlamaServer, tmp_path: Path) -> None:
    long = replace(ASKED, messages=[{"role": "user", "content": "Tell a very long story."}], max_tokens=300)
    async with shop(tmp_path, server) as (stack, buyer):
        with pytest.raises(ConsumerError):
            await ask_and_kill(buyer, long, server)
        served = stack.ledger.account(buyer.lease_id).served
        assert stack.ledger.count == 1
        assert 0 < served < 300 * 30
        await asyncio.to_thread(server.start)
        end = (await buyer.ask(ASKED))[-1]
        assert isinstance(end, End)
        assert stack.ledger.count == 2
        assert buyer.cumulative == stack.ledger.account(buyer.lease_id).served
        stack.ledger.check()
