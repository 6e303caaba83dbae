"""Continuous batching: every step decodes one token of each answering request, then a piece of one prompt.

A prompt is read by itself and cut at fixed places, whoever else is answering: llama.cpp rounds differently for other
batch shapes, and an answer must not depend on the others (`llama.py`). For the same reason a long answer that is alone
decodes two tokens at a time: the next, and a guess at the one after it, which is dropped when it was wrong.

A request holds one sequence slot from admission to its last token. A finished slot remembers what it has seen, so that
a request with the same `cache_key` reuses the common start of its prompt. One cache key never sees what another left.

Admission is by memory: keys and values of all slots are taken when the engine starts (`memory.py` has the formula), so
a request that gets a slot has room for its whole context, and the others wait (`waiting.py`).
"""

import math
import time
from collections.abc import Callable

from provider.engine.embedding import Embedder
from provider.engine.errors import GenerationError
from provider.engine.frames import Frame
from provider.engine.llama import LONE_CELLS, Batcher, Model, Row
from provider.engine.request import Request
from provider.engine.sampling import Sampler, likeliest, log_sum
from provider.engine.text import StopText
from provider.engine.waiting import WaitingRequests

PROMPT_PIECE = 64
"""Tokens of a prompt read between two tokens of the others, whose streams must not stall."""
GUESS_BACK = 1024
"""Tokens among which the guess at a next one is looked for."""
LEAST_LOGPROB = -(2.0**31) / 1000
"""What minus infinity becomes: thousandths of it are the least int32."""
_NO_ROOM = 1


class Slot:
    """One sequence of the context."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.cache_key = ""
        self.seen: list[int] = []  # tokens whose keys and values the context holds

    def common_prefix(self, request: Request) -> int:
        """How many tokens of the request's prompt this slot already holds; at least one is always left to decode."""
        if not request.cache_key or request.cache_key != self.cache_key:
            return 0
        length = 0
        for seen, wanted in zip(self.seen, request.prompt[:-1], strict=False):
            if seen != wanted:
                break
            length += 1
        return length


class Running:
    """A request in its slot."""

    def __init__(self, request: Request, slot: Slot, cached: int, sampler: Sampler) -> None:
        self.request = request
        self.slot = slot
        self.cached = cached
        self.sampler = sampler
        self.text = StopText(request.stop)
        self.pending = request.prompt[cached:]  # tokens to decode before the next one can be sampled
        self.generated = 0
        self.paused = False
        self.has_ended = False
        self.started = time.monotonic()
        self.first_token = 0.0

    def guess(self) -> int:
        """What followed the last two tokens when they last stood together; texts repeat themselves."""
        tokens = self.slot.seen[-GUESS_BACK:] + self.pending
        for place in range(len(tokens) - 2, 1, -1):
            if tokens[place - 1] == tokens[-1] and tokens[place - 2] == tokens[-2]:
                return tokens[place]
        return tokens[-1]


def _neighbours(runs: list[Running]) -> list[list[Running]]:
    """Requests in adjacent sequences, in their order: only such rows does llama.cpp compute together."""
    groups: list[list[Running]] = []
    for run in sorted(runs, key=lambda run: run.slot.sequence):
        if groups and groups[-1][-1].slot.sequence + 1 == run.slot.sequence:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


class Scheduler:
    """Owns the slots; `emit` receives the frames for the host."""

    def __init__(
        self, model: Model, batcher: Batcher, sequences: int, embedder: Embedder, emit: Callable[[Frame], None]
    ) -> None:
        self._model = model
        self._batcher = batcher
        self._embedder = embedder
        self._emit = emit
        self._free = [Slot(sequence) for sequence in range(sequences)]
        self._waiting = WaitingRequests()
        self._running: dict[int, Running] = {}

    @property
    def has_work(self) -> bool:
        """Whether a step would decode anything."""
        return (
            bool(self._waiting.has_ready and self._free)
            or any(not running.paused for running in self._running.values())
            or self._embedder.has_work
        )

    def submit(self, request: Request) -> None:
        """Queues a request. Raises GenerationError `prompt_too_long`, `bad_request`, `overloaded`."""
        if request.id in self._running or self._waiting.find(request.id):
            raise GenerationError("bad_request", f"request {request.id} is already running")
        room = self._batcher.context_per_sequence - len(request.prompt)
        if room < 1:
            raise GenerationError(
                "prompt_too_long",
                f"prompt of {len(request.prompt)} tokens exceeds the context of {self._batcher.context_per_sequence}",
            )
        self._waiting.add(request)

    def embed(self, request_id: int, prompts: list[list[int]]) -> None:
        """Queues prompts to embed. Raises GenerationError `prompt_too_long`, `overloaded`."""
        self._embedder.submit(request_id, prompts)

    def pause(self, request_id: int) -> None:
        """Stops a request: one in a slot keeps it, one that waits is passed over."""
        if running := self._running.get(request_id):
            running.paused = True
        else:
            self._waiting.pause(request_id)

    def resume(self, request_id: int) -> None:
        """Goes on with a paused request."""
        if running := self._running.get(request_id):
            running.paused = False
        else:
            self._waiting.resume(request_id)

    def cancel(self, request_id: int) -> None:
        """Ends a request with finish reason `cancelled`; an unknown id is ignored, its end may be on its way."""
        self._embedder.cancel(request_id)
        if running := self._running.get(request_id):
            self._finish(running, "cancelled")
        elif request := self._waiting.remove(request_id):
            self._emit_unstarted(request)

    def step(self) -> None:
        """Admits waiting requests, decodes for those who answer, then reads a piece of a prompt and one to embed."""
        while self._free and (request := self._waiting.take()):
            self._start(request)
        ready = [run for run in self._running.values() if not run.paused]
        answering = [run for run in ready if len(run.pending) == 1]
        reading = [run for run in ready if len(run.pending) > 1]
        for runs in _neighbours(answering):
            if len(runs) == 1 and self._is_long(runs[0]):
                self._decode_with_guess(runs[0])
            else:
                self._decode(runs, 1)
        if reading:
            self._read(reading[0])
        if self._embedder.has_work:
            self._embedder.step(PROMPT_PIECE)

    def _read(self, run: Running) -> None:
        """Reads up to the next fixed place of a prompt, and lets the other prompts go first then."""
        self._running[run.request.id] = self._running.pop(run.request.id)
        self._decode([run], min(len(run.pending), PROMPT_PIECE - len(run.slot.seen) % PROMPT_PIECE))

    def _decode(self, runs: list[Running], count: int) -> None:
        """Decodes `count` pending tokens of each request, and advances those that have no more."""
        rows = [
            Row(token, run.slot.sequence, len(run.slot.seen) + place, place + 1 == len(run.pending))
            for run in runs
            for place, token in enumerate(run.pending[:count])
        ]
        status = self._batcher.decode(rows)
        for number, run in enumerate(runs):
            self._decoded(run, count, (number + 1) * count - 1, status)

    def _decoded(self, run: Running, count: int, row: int, status: int) -> None:
        """`count` pending tokens of a request were decoded, the last of them as `row` of the batch."""
        if status != 0:
            code = "overloaded" if status == _NO_ROOM else "engine_failed"
            self._fail(run, GenerationError(code, f"decoding failed with status {status}"))
            return
        run.slot.seen.extend(run.pending[:count])
        run.pending = run.pending[count:]
        if not run.pending:
            self._advance(run, row)

    def _is_long(self, run: Running) -> bool:
        """Whether its row must not be a batch's only one; at the last cell there is no room for another."""
        return LONE_CELLS <= len(run.slot.seen) < self._batcher.context_per_sequence - 1

    def _decode_with_guess(self, run: Running) -> None:
        slot, guess = run.slot, run.guess()
        place = len(slot.seen)
        status = self._batcher.decode(
            [Row(run.pending[0], slot.sequence, place, True), Row(guess, slot.sequence, place + 1, True)]
        )
        self._decoded(run, 1, 0, status)
        if status == 0 and run.pending == [guess] and not run.has_ended:
            self._decoded(run, 1, 1, status)
        self._batcher.keep(slot.sequence, len(slot.seen))

    def _start(self, request: Request) -> None:
        try:
            sampler = Sampler(self._model, request, self._batcher.context_per_sequence)
        except GenerationError as error:
            self._emit({"ev": "error", "id": request.id, "code": error.code, "message": str(error)})
            return
        slot = max(self._free, key=lambda free: (free.common_prefix(request), not free.seen, -free.sequence))
        self._free.remove(slot)
        cached = slot.common_prefix(request)
        self._batcher.keep(slot.sequence, cached)
        slot.seen = slot.seen[:cached]
        slot.cache_key = request.cache_key
        self._running[request.id] = Running(request, slot, cached, sampler)
        self._emit({"ev": "started", "id": request.id, "prompt_tokens": len(request.prompt), "cached_tokens": cached})

    def _advance(self, run: Running, index: int) -> None:
        logits = self._batcher.logits(index)
        try:
            token = run.sampler.choose(self._batcher.handle, index, logits)
        except GenerationError as error:
            self._fail(run, error)
            return
        total = log_sum(logits)
        if not math.isfinite(total):
            self._fail(run, GenerationError("engine_failed", "the model gives no numbers"))
            return
        if run.first_token == 0.0:
            run.first_token = time.monotonic()
        if self._model.ends_generation(token):
            self._finish(run, "stop")
            return
        run.generated += 1
        piece = self._model.piece(token)
        frame: Frame = {
            "ev": "token",
            "id": run.request.id,
            "token": token,
            "text": run.text.push(piece),
            "logprob": _finite(float(logits[token]) - total),
        }
        if run.request.logprobs is not None:
            frame["piece"] = piece.decode("latin-1")
            frame["top"] = [
                [each, _finite(float(logits[each]) - total), self._model.piece(each).decode("latin-1")]
                for each in likeliest(logits, run.request.logprobs)
            ]
        self._emit(frame)
        run.pending = [token]
        if run.text.stopped:
            self._finish(run, "stop")
        elif run.generated >= run.request.max_tokens or len(run.slot.seen) >= self._batcher.context_per_sequence:
            self._finish(run, "length")

    def _finish(self, run: Running, reason: str) -> None:
        now = time.monotonic()
        first = run.first_token or now
        self._emit(
            {
                "ev": "done",
                "id": run.request.id,
                "finish_reason": reason,
                "text": run.text.finish(),
                "prompt_tokens": len(run.request.prompt),
                "cached_tokens": run.cached,
                "generated_tokens": run.generated,
                "queue_ms": round((run.started - run.request.received) * 1000),
                "prompt_ms": round((first - run.started) * 1000),
                "generate_ms": round((now - first) * 1000),
            }
        )
        self._leave(run)

    def _emit_unstarted(self, request: Request) -> None:
        self._emit(
            {
                "ev": "done",
                "id": request.id,
                "finish_reason": "cancelled",
                "text": "",
                "prompt_tokens": len(request.prompt),
                "cached_tokens": 0,
                "generated_tokens": 0,
                "queue_ms": round((time.monotonic() - request.received) * 1000),
                "prompt_ms": 0,
                "generate_ms": 0,
            }
        )

    def _fail(self, run: Running, error: GenerationError) -> None:
        self._emit({"ev": "error", "id": run.request.id, "code": error.code, "message": str(error)})
        run.slot.cache_key = ""
        run.slot.seen = []
        self._batcher.keep(run.slot.sequence, 0)
        self._leave(run)

    def _leave(self, run: Running) -> None:
        run.has_ended = True
        run.sampler.close()
        del self._running[run.request.id]
        self._free.append(run.slot)


def _finite(logprob: float) -> float:
    """Impossible tokens have minus infinity, which JSON does not know."""
    return max(logprob, LEAST_LOGPROB)
