"""A provider whose model says exactly what a test writes down: real service, ledger and HTTP in front of it."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from protocol.ids import OfferKind
from provider.api import create_app
from provider.backend import Backend, Done, GenerationRequest, Prompt, Token, TopToken
from provider.engine.errors import EngineError
from provider.exposure import CreditPolicy
from provider.leases import Lease, LeaseCache
from provider.ledger import Ledger
from provider.offers import Offer, OfferBook, make_document, make_terms
from provider.service import InferenceService, ServiceSettings
from tests.support.promised import PROMISED
from tests.support.provider_stack import DOMAIN, NODE, PROVIDER, TOKEN, TestClock, make_lease, make_offer
from tests.support.serving import serve

MODEL = "scripted"
DIMENSIONS = 5


class ScriptedGeneration:
    """One answer, character by character; a token's id is the character's code point."""

    def __init__(self, request: GenerationRequest, prompt_tokens: int, said: str, reason: str) -> None:
        self.prompt_tokens: int | None = prompt_tokens
        self.cached_tokens: int | None = 0
        self._request = request
        self._said = said
        self._reason = reason
        self._go = asyncio.Event()
        self._go.set()
        self._is_cancelled = False

    async def pause(self) -> None:
        self._go.clear()

    async def resume(self) -> None:
        self._go.set()

    async def cancel(self) -> None:
        self._is_cancelled = True
        self._go.set()

    async def __aiter__(self) -> AsyncIterator[Token | Done]:
        asks = self._request.logprobs
        said = 0
        for character in self._said[: self._request.max_tokens]:
            await self._go.wait()
            await asyncio.sleep(0)
            if self._is_cancelled:
                break
            piece = character.encode() if asks is not None else b""
            top = tuple(TopToken(65 + rank, -0.5 - rank, bytes([65 + rank])) for rank in range(asks or 0))
            yield Token(ord(character), character, -0.25, piece, top)
            said += 1
        is_cut = said < len(self._said)
        reason = "cancelled" if self._is_cancelled else "length" if is_cut else self._reason
        yield Done(reason, "", self.prompt_tokens or 0, 0, said, 0, 0, 0)


@dataclass
class ScriptedBackend:
    """`answers` are given in turn, the last for ever; a prompt has as many tokens as its text has characters."""

    answers: list[str] = field(default_factory=lambda: ["hello"])
    context: int = 4096
    has_tools: bool = True
    dimensions: int = DIMENSIONS
    reason: str = "stop"
    failure: EngineError | None = None
    vectors: Callable[[str], list[float]] | None = None
    requests: list[GenerationRequest] = field(default_factory=list)
    embedded: list[list[Prompt]] = field(default_factory=list)

    async def count(self, prompt: Prompt) -> int:
        return len(_text(prompt))

    async def generate(self, request: GenerationRequest) -> ScriptedGeneration:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return ScriptedGeneration(request, len(_text(request.prompt)), said, self.reason)

    async def embed(self, prompts: list[Prompt]) -> list[list[float]]:
        self.embedded.append(prompts)
        if self.failure is not None:
            raise self.failure
        return [(self.vectors or unit_vector)(_text(prompt)) for prompt in prompts]


def unit_vector(text: str) -> list[float]:
    """A vector of unit length that depends on the text."""
    raw = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:DIMENSIONS]]
    length = math.sqrt(sum(component * component for component in raw))
    return [component / length for component in raw]


class _Hold:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def release(self) -> None:
        """There is nothing to let go."""


class _Only:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def acquire(self, offer: Offer) -> _Hold:
        return _Hold(self._backend)

    def is_ready(self) -> bool:
        return True


def scripted_offer(kind: OfferKind = OfferKind.INFERENCE, **caps: int) -> Offer:
    """10 base units a token in, 30 out."""
    model = {**make_offer().document["model"], "name": MODEL}
    limits = {"max_units_in": 4096, "max_units_out": 4096, "max_concurrent": 4, **caps}
    document = make_document(model, kind=kind, sandbox=PROMISED, **limits)
    terms = make_terms(document, token=TOKEN, price_in=10, price_out=30, price_cached=5, unit_scale=1)
    return Offer(1, 1, terms, document)


@dataclass
class ScriptedProvider:
    """What a test may look at."""

    service: InferenceService
    ledger: Ledger
    backend: ScriptedBackend
    offer: Offer
    url: str
    clock: TestClock
    leases: dict[bytes, Lease]

    def add_lease(self, **changes: object) -> Lease:
        """Opens a lease "on chain"."""
        lease = make_lease(self.offer.terms, len(self.leases), **changes)
        lease = replace(lease, owner="0x" + f"{len(self.leases) + 1:040x}")
        self.leases[lease.lease_id] = lease
        return lease


@asynccontextmanager
async def scripted_provider(
    folder: Path, backend: ScriptedBackend, offer: Offer | None = None, *, credit: int = 1_000_000, **options: Any
) -> AsyncIterator[ScriptedProvider]:
    """Runs it until the end of the block; `options` are the service's gate, policy and metrics."""
    offer = offer or scripted_offer()
    book = OfferBook(folder / "offers")
    book.add(offer)
    leases: dict[bytes, Lease] = {}
    clock = TestClock()

    async def fetch(wanted: bytes) -> Lease | None:
        return leases.get(wanted)

    ledger = Ledger(folder / "ledger.sqlite", DOMAIN, PROVIDER)
    service = InferenceService(
        domain=DOMAIN,
        provider=PROVIDER,
        signer=NODE,
        ledger=ledger,
        leases=LeaseCache(fetch, 0.0),
        offers=book,
        backends=_Only(backend),
        clock=clock,
        sandbox=PROMISED,
        settings=ServiceSettings(CreditPolicy(credit), chunk_tokens=8, voucher_timeout_s=2.0),
        **options,
    )
    async with serve(create_app(service)) as url:
        yield ScriptedProvider(service, ledger, backend, offer, url, clock, leases)
    await service.stop()
    ledger.close()


def _text(prompt: Prompt) -> str:
    if prompt.messages is not None:
        return "".join(str(message["content"]) for message in prompt.messages)
    return prompt.text if prompt.text is not None else "".join(map(chr, prompt.tokens or []))
