"""Made-up candidates, and a router over them."""

from dataclasses import dataclass, field
from typing import Any

from consumer.endpoints import Endpoint
from consumer.offers import Offer
from consumer.routing.breaker import Breaker
from consumer.routing.catalogue import Candidate, Catalogue
from consumer.routing.health import Health
from consumer.routing.limits import Limits
from consumer.routing.router import Fallbacks, Router
from consumer.routing.settings import LimitSettings
from protocol.ids import OfferKind
from protocol.typed_data import Terms

USDC, CLAW = "0x" + "11" * 20, "0x" + "22" * 20
SYMBOLS = {USDC: "USDC", CLAW: "CLAW"}


def candidate(provider: int = 1, model: str = "small", **changes: Any) -> Candidate:
    """`changes` are of the terms, of the document, or `metadata`, `stake`, `offer_id`, `version`, `context_length`."""
    kind = OfferKind(changes.pop("offer_kind", OfferKind.INFERENCE))
    document = {
        "kind": kind.label,
        "tier": changes.pop("tier", "shared"),
        "sandbox": changes.pop("sandbox", "gvisor-systrap"),
        "region": changes.pop("region", "DE"),
        "content_policy": {"refuses": changes.pop("refuses", [])},
        "caps": {"max_units_in": 4096, "max_units_out": 2048},
        "model": {
            "name": model,
            "gguf_sha256": "ab" * 32,
            "tokenizer_sha256": "cd" * 32,
            "chat_template_sha256": changes.pop("chat_template_sha256", "ef" * 32),
            "quantisation": "Q8_0",
            "engine": {"name": "llama.cpp", "build": "1"},
            "context_length": changes.pop("context_length", 4096),
        },
    }
    offer_id, version = changes.pop("offer_id", 1), changes.pop("version", 1)
    metadata = changes.pop("metadata", None)
    stake, owner = changes.pop("stake", 10**22), "0x" + f"{provider:040x}"
    terms = {
        "token": USDC,
        "price_in": 10_000,
        "price_out": 30_000,
        "price_cached": 5_000,
        "unit_scale": 1_000,
        "sla_ttft_ms": 0,
        "sla_milli_tokens_per_s": 0,
        "sla_credit_bps": 0,
        "period": 0,
        "doc_hash": bytes(32),
    }
    offer = Offer(provider, offer_id, version, Terms(**{"offer_kind": int(kind), **terms, **changes}), document, owner)
    return Candidate(offer, Endpoint(f"http://127.0.0.1:{provider}"), owner, stake, metadata)


@dataclass
class Listed:
    """A source that lists what it is given; an error instead is raised."""

    found: list[Candidate] | Exception
    is_complete: bool = True

    async def candidates(self) -> list[Candidate]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@dataclass
class Clock:
    """Time as a test sets it."""

    at: float = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Routing:
    """A router and what it stands on."""

    source: Listed
    catalogue: Catalogue
    clock: Clock
    health: Health
    breaker: Breaker
    router: Router
    leased: set[int] = field(default_factory=set)
    exposed: dict[int, int] = field(default_factory=dict)


async def routing(
    *candidates: Candidate, limits: LimitSettings | None = None, fallbacks: Fallbacks | None = None
) -> Routing:
    """The catalogue holds the candidates already."""
    source, clock = Listed(list(candidates)), Clock()
    catalogue = Catalogue([source])
    await catalogue.refresh()
    health, breaker = Health(now=clock), Breaker(now=clock)
    leased: set[int] = set()
    exposed: dict[int, int] = {}
    router = Router(
        catalogue,
        health,
        breaker,
        Limits(limits or LimitSettings(), SYMBOLS),
        fallbacks or Fallbacks(),
        has_room=lambda candidate, _: candidate.provider in leased,
        exposure=lambda candidate: exposed.get(candidate.provider, 0),
    )
    return Routing(source, catalogue, clock, health, breaker, router, leased, exposed)
