"""What the market offers now, from any number of sources, kept while a source is away."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from consumer.endpoints import Endpoint
from consumer.offers import Offer
from protocol.ids import OfferKind
from protocol.sandboxes import SandboxTier

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An offer that the chain confirmed, and where it is served.

    `stake` is the owner's active stake in base units of CLAW; `metadata` the provider's document, if it has one.
    """

    offer: Offer
    endpoint: Endpoint
    owner: str
    stake: int
    metadata: dict[str, Any] | None = None

    @property
    def provider(self) -> int:
        """The provider's number."""
        return self.offer.provider

    @cached_property
    def model(self) -> str:
        """The name to ask for."""
        return self.offer.model_name

    @cached_property
    def key(self) -> tuple[int, str]:
        """What health is kept for: the offers of one model by one provider are one engine."""
        return self.offer.provider, self.model

    @cached_property
    def name(self) -> str:
        """The route's name, as an application would pin it."""
        return f"provider/{self.offer.provider}/{self.model}"

    @cached_property
    def sandbox(self) -> SandboxTier:
        """What its terms promise of the place where it is answered."""
        return SandboxTier(self.offer.document["sandbox"])

    @cached_property
    def claimed_sandbox(self) -> SandboxTier | None:
        """What the provider's metadata says of this offer that differs from the terms, else None."""
        listed = self.metadata["models"] if self.metadata else ()
        of_offer = (SandboxTier(each["sandbox"]) for each in listed if each["offer_id"] == self.offer.offer_id)
        return next((claimed for claimed in of_offer if claimed is not self.sandbox), None)

    @cached_property
    def kind(self) -> OfferKind:
        """Inference or embedding."""
        return OfferKind(self.offer.terms.offer_kind)

    @cached_property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self.offer.document["model"]["context_length"])


class OfferSource(Protocol):
    """Where offers are found: known addresses, later the DHT."""

    @property
    def is_complete(self) -> bool:
        """Whether the last listing left out nothing that this source knows of."""

    async def candidates(self) -> list[Candidate]:
        """Every offer that the chain confirms now. Raises any error when the chain or the source is away."""


class Catalogue:
    """The candidates of all sources. Of an offer that several list, the newest version counts, then the first source.

    `version` grows with every change, so that whatever is derived from the candidates can be kept until then.
    """

    def __init__(self, sources: Sequence[OfferSource], max_age_s: float = 30.0) -> None:
        self._sources = sources
        self._max_age_s = max_age_s
        self._listed: list[list[Candidate] | None] = [None] * len(sources)
        self.candidates: tuple[Candidate, ...] = ()
        self.version = 0

    @property
    def is_complete(self) -> bool:
        """Whether a model that is not here is offered by nobody known."""
        return all(self._listed[at] is not None and source.is_complete for at, source in enumerate(self._sources))

    async def run(self) -> None:
        """Refreshes until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._max_age_s)

    async def refresh(self) -> None:
        """Asks every source once; one that fails keeps what it listed before."""
        await asyncio.gather(*(self._refresh(at) for at in range(len(self._sources))))
        found: dict[tuple[int, int], Candidate] = {}
        for listed in self._listed:
            for candidate in listed or ():
                key = (candidate.offer.provider, candidate.offer.offer_id)
                if key not in found or found[key].offer.version < candidate.offer.version:
                    found[key] = candidate
        candidates = tuple(found[key] for key in sorted(found))
        if candidates != self.candidates:
            self.candidates = candidates
            self.version += 1

    async def _refresh(self, at: int) -> None:
        try:
            self._listed[at] = await self._sources[at].candidates()
        except Exception as error:  # noqa: BLE001 - a source that fails in any way leaves the others and the last list
            _log.warning("offers are not refreshed from %s: %s", type(self._sources[at]).__name__, error)
