"""The worker's models in memory."""

from collections.abc import Mapping

from protocol.headers import RefusalCode
from provider.backend import Backend
from provider.engine.client import EngineClient
from provider.exceptions import Refusal
from provider.offers import Offer


class _Hold:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def release(self) -> None:
        """Nothing is ever put out of memory."""


class ModelPool:
    """One engine for each model file, by the file's SHA-256."""

    def __init__(self, engines: Mapping[str, EngineClient]) -> None:
        self.engines = engines

    async def start(self) -> None:
        """Loads all models. Raises EngineStartError."""
        for engine in self.engines.values():
            await engine.start()

    async def stop(self) -> None:
        """Ends all engines."""
        for engine in self.engines.values():
            await engine.stop()

    async def acquire(self, offer: Offer) -> _Hold:
        """The engine of the offer's model. Raises Refusal if the worker has no such model."""
        engine = self.engines.get(offer.document["model"]["gguf_sha256"])
        if engine is None:
            raise Refusal(RefusalCode.TERMS, f"the model of offer {offer.offer_id} is not served any more")
        return _Hold(engine)

    def is_ready(self) -> bool:
        """Whether every engine runs."""
        return all(engine.is_ready for engine in self.engines.values())
