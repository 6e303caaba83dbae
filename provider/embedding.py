"""A running embedding: all vectors at once, billed by their prompts, under one receipt."""

import asyncio

from protocol.exceptions import InvalidField
from protocol.merkle import quantise_component
from provider.active_request import ActiveRequest, Host
from provider.backend import Backend, Prompt
from provider.engine.errors import GenerationError
from provider.events import Embedded
from provider.exposure import LeaseExposure
from provider.metering import Meter


class ActiveEmbedding(ActiveRequest):
    """Embeds the prompts of one request. Nothing is owed when the engine fails, or has other dimensions."""

    def __init__(
        self,
        host: Host,
        backend: Backend,
        exposure: LeaseExposure,
        meter: Meter,
        model: str,
        prompt_tokens: int,
        prompts: tuple[Prompt, ...],
    ) -> None:
        super().__init__(host, backend, exposure, meter, model, prompt_tokens)
        self._prompt_tokens = prompt_tokens
        self._prompts = prompts

    async def _work(self) -> str:
        found = await self._backend.embed(list(self._prompts))
        if len(found) != len(self._prompts):
            raise GenerationError("engine_failed", f"{len(found)} vectors for {len(self._prompts)} inputs")
        if any(len(vector) != self._backend.dimensions for vector in found):
            raise GenerationError("engine_failed", "a vector has other dimensions than the model")
        vectors = await asyncio.to_thread(self._take, found)
        self.meter.start(self._prompt_tokens, 0)
        self._note()
        self._events.put_nowait(Embedded(vectors))
        return "stop"

    def _take(self, found: list[list[float]]) -> list[list[int]]:
        """Quantises and hashes, beside the event loop: a request may bring half a million components."""
        try:
            vectors = [[quantise_component(component) for component in vector] for vector in found]
        except InvalidField as error:
            raise GenerationError("engine_failed", "a vector is not of unit length") from error
        self.meter.add_vectors(vectors)
        return vectors
