"""Embeddings: the mean of the model's last hidden states over all tokens of a prompt, scaled to unit length.

They have a context of their own with one sequence, made at the first use, so that answers in progress keep theirs. The
mean is taken here over the tokens' own vectors: llama.cpp's mean pooling sees one micro-batch only, this sees prompts
as long as the context.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from provider.engine.errors import EngineStartError, GenerationError
from provider.engine.frames import Frame
from provider.engine.llama import Batcher, Row

MAX_WAITING = 64


@dataclass
class _Job:
    id: int
    prompts: list[list[int]]
    index: int = 0
    read: int = 0
    total: npt.NDArray[np.float64] | float = 0.0


class Embedder:
    """Embeds prompts piece by piece, between the decodes of the scheduler."""

    def __init__(self, open_context: Callable[[], Batcher], emit: Callable[[Frame], None]) -> None:
        self._open_context = open_context
        self._emit = emit
        self._batcher: Batcher | None = None
        self._jobs: deque[_Job] = deque()

    @property
    def has_work(self) -> bool:
        """Whether a step would decode anything."""
        return bool(self._jobs)

    def submit(self, request_id: int, prompts: list[list[int]]) -> None:
        """Queues prompts. Raises GenerationError `overloaded`, `prompt_too_long`."""
        if len(self._jobs) >= MAX_WAITING:
            raise GenerationError("overloaded", f"{MAX_WAITING} embedding requests wait already; try again later")
        room = self._context().context_per_sequence
        longest = max(map(len, prompts), default=0)
        if longest > room:
            raise GenerationError("prompt_too_long", f"prompt of {longest} tokens exceeds the context of {room}")
        if prompts:
            self._jobs.append(_Job(request_id, prompts))
        else:
            self._emit({"ev": "embedded", "id": request_id})

    def step(self, most: int) -> None:
        """Reads at most `most` tokens of one prompt and sends what is complete; jobs take turns, prompt by prompt."""
        job, batcher = self._jobs.popleft(), self._context()
        prompt = job.prompts[job.index]
        piece = prompt[job.read : job.read + min(most, batcher.capacity)]
        if job.read == 0:
            batcher.keep(0, 0)
        status = batcher.decode([Row(token, 0, job.read + place, True) for place, token in enumerate(piece)])
        if status != 0:
            message = f"embedding failed with status {status}"
            self._emit({"ev": "error", "id": job.id, "code": "engine_failed", "message": message})
            return
        for place in range(len(piece)):
            job.total = job.total + batcher.embedding(place).astype(np.float64)
        job.read += len(piece)
        if job.read < len(prompt):
            self._jobs.appendleft(job)
            return
        vector = job.total / (float(np.linalg.norm(job.total)) or 1.0)
        self._emit({"ev": "embedding", "id": job.id, "index": job.index, "vector": np.asarray(vector).tolist()})
        job.index, job.read, job.total = job.index + 1, 0, 0.0
        if job.index == len(job.prompts):
            self._emit({"ev": "embedded", "id": job.id})
        else:
            self._jobs.append(job)

    def cancel(self, request_id: int) -> None:
        """Forgets a request; its client no longer listens."""
        self._jobs = deque(job for job in self._jobs if job.id != request_id)

    def _context(self) -> Batcher:
        if self._batcher is None:
            try:
                self._batcher = self._open_context()
            except EngineStartError as error:
                raise GenerationError("engine_failed", f"no memory for embeddings: {error}") from error
        return self._batcher
