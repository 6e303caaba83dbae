"""What a model file on this machine itself would have said: the reference for canaries of any prompt."""

import asyncio
import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from consumer.exceptions import TokenizerUnusable
from consumer.routing.canary import Compared, Known
from consumer.tokenizer import silence
from protocol.stream import StreamToken

CONTEXT = 2048
_THREADS = 1
_PIECE_OF = 512


class LocalReference:
    """The model with its weights; one question at a time. Closing frees it."""

    def __init__(self, path: Path) -> None:
        """Raises TokenizerUnusable."""
        silence()
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        if not self._model:
            raise TokenizerUnusable(f"{path} is not a readable GGUF file")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = CONTEXT
        params.n_batch = _PIECE_OF
        params.n_threads = params.n_threads_batch = _THREADS
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self._lock = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Frees the memory, once a comparison that runs in another thread has ended."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                llama_cpp.llama_free(self._context)
                llama_cpp.llama_model_free(self._model)

    def compare(self, prompt: str, answered: Sequence[StreamToken]) -> list[Compared]:
        """Teacher forcing: what the model thinks of each answered token, given those before it. Blocks."""
        given = self._tokens(prompt)
        fitting = [token for token in answered[: CONTEXT - len(given)] if 0 <= token.token_id < self.size]
        if not fitting or len(fitting) < len(answered):
            return [Compared(agrees=False)]
        with self._lock:
            rows = self._logprobs(given + [token.token_id for token in fitting[:-1]], len(fitting))
        return [
            Compared(int(row.argmax()) == token.token_id, abs(_thousandths(row[token.token_id]) - token.logprob))
            for row, token in zip(rows, fitting, strict=True)
        ]

    def record(self, prompt: str, max_tokens: int) -> Known:
        """The model's own greedy answer, for those who have no file of it. Blocks."""
        new = self._tokens(prompt)
        known = 0
        found: list[StreamToken] = []
        while len(found) < max_tokens and known + len(new) < CONTEXT:
            row = self._logprobs(new, 1, known)[0]
            known += len(new)
            best = int(row.argmax())
            if llama_cpp.llama_vocab_is_eog(self._vocabulary, best):
                break
            found.append(StreamToken(best, _thousandths(row[best])))
            new = [best]
        return Known(prompt, tuple(found))

    def _logprobs(self, tokens: list[int], last: int, known: int = 0) -> list[npt.NDArray[np.float64]]:
        """Log-probabilities after each of the `last` tokens, which follow on `known` ones evaluated before."""
        if self._is_closed:
            raise TokenizerUnusable("the model is closed")
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), 0, known, -1)
        rows: list[npt.NDArray[np.float64]] = []
        batch = llama_cpp.llama_batch_init(_PIECE_OF, 0, 1)
        try:
            for start in range(0, len(tokens), _PIECE_OF):
                piece = tokens[start : start + _PIECE_OF]
                batch.n_tokens = len(piece)
                for at, token in enumerate(piece):
                    batch.token[at], batch.pos[at] = token, known + start + at
                    batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
                    batch.logits[at] = start + at >= len(tokens) - last
                if llama_cpp.llama_decode(self._context, batch) != 0:
                    raise TokenizerUnusable("the model cannot be evaluated here")
                rows += [self._row(at) for at in range(len(piece)) if batch.logits[at]]
        finally:
            llama_cpp.llama_batch_free(batch)
        return rows

    def _row(self, at: int) -> npt.NDArray[np.float64]:
        raw = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, at), (self.size,))
        shifted = raw.astype(np.float64) - raw.max()
        scaled: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
        return scaled

    def _tokens(self, text: str) -> list[int]:
        data = text.encode(errors="replace")
        buffer = (ctypes.c_int32 * CONTEXT)()
        adds_bos = llama_cpp.llama_vocab_get_add_bos(self._vocabulary)
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), buffer, CONTEXT, adds_bos, True)
        if not 0 < count < CONTEXT:
            raise TokenizerUnusable("a probe's prompt is empty or too long")
        return list(buffer[:count])


@dataclass(frozen=True)
class Forced:
    """A probe with any prompt, held against the model itself."""

    reference: LocalReference
    prompt: str
    max_tokens: int

    async def compare(self, answered: Sequence[StreamToken]) -> list[Compared]:
        """In a thread."""
        return await asyncio.to_thread(self.reference.compare, self.prompt, answered)


def _thousandths(logprob: float) -> int:
    return round(1_000 * float(logprob))
