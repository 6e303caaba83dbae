"""The part of llama.cpp the engine uses, behind small classes: `Model` (weights, vocabulary), `Batcher` (context).

Sequences are kept apart (`kv_unified=False`): greedy answers in a batch are then the same as alone, which verification
by teacher forcing relies on.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from provider.engine.errors import EngineStartError

GGUF_MAGIC = b"GGUF"
MAX_PIECE_BYTES = 1024
_LOG_LEVEL_ERROR = 4

_log_lines: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    if level == _LOG_LEVEL_ERROR:
        _log_lines.append(text.decode(errors="replace").strip())
        del _log_lines[:-20]


def _errors() -> str:
    return "; ".join(line for line in _log_lines if line) or "no further detail from llama.cpp"


@dataclass(frozen=True)
class Row:
    """One token of a batch: its sequence, its position there, and whether its logits are wanted."""

    token: int
    sequence: int
    position: int
    wants_logits: bool = False


class Model:
    """Weights and vocabulary of one GGUF file."""

    def __init__(self, path: Path) -> None:
        """Loads the file. Raises EngineStartError: `model_missing`, `model_damaged`."""
        _check_file(path)
        llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        if not self._model:
            raise EngineStartError("model_damaged", f"{path} cannot be loaded: {_errors()}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocab)

    @property
    def handle(self) -> Any:
        """llama.cpp's model pointer."""
        return self._model

    def metadata(self, key: str) -> str | None:
        """A string from the GGUF metadata, or None."""
        size = 4096
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.value.decode(errors="replace")
            size = length + 1

    def special_text(self, key: str) -> str:
        """The text of the special token the metadata names under `key`, empty if it names none."""
        token = self.metadata(key)
        if token is None or not 0 <= int(token) < self.vocabulary_size:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, int(token)) or b""
        return text.decode(errors="replace")

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids of `text`; control tokens written in it are recognised (the chat template writes them)."""
        data = text.encode()
        size = len(data) + 2
        while True:
            tokens = (llama_cpp.llama_token * size)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, size, add_special, True)
            if count >= 0:
                return list(tokens[:count])
            size = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; control tokens stand for none."""
        buffer = ctypes.create_string_buffer(MAX_PIECE_BYTES)
        length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, MAX_PIECE_BYTES, 0, False)
        return buffer.raw[: max(length, 0)]

    def ends_generation(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))


class Sampler:
    """One request's sampler chain: greedy at temperature 0, else nucleus, temperature and a seeded draw."""

    def __init__(self, *, temperature: float, top_p: float, seed: int) -> None:
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if temperature <= 0:
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_greedy())
            return
        if top_p < 1:
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_top_p(top_p, 1))
        llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_temp(temperature))
        llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_dist(seed & 0xFFFF_FFFF))

    @property
    def handle(self) -> Any:
        """llama.cpp's sampler pointer."""
        return self._chain

    def close(self) -> None:
        """Frees the chain."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None


class Batcher:
    """A context for several sequences, decoding one batch of rows at a time."""

    def __init__(self, model: Model, *, context: int, sequences: int, threads: int, batch: int) -> None:
        """`context` is in tokens per sequence. Raises EngineStartError: `out_of_memory`."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context * sequences
        params.n_seq_max = sequences
        params.n_batch = batch
        params.n_ubatch = batch
        params.n_threads = threads
        params.n_threads_batch = threads
        params.kv_unified = False
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model.handle, params)
        if not self._context:
            raise EngineStartError("out_of_memory", f"no context of {sequences} x {context} tokens: {_errors()}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(batch, 0, 1)
        self._vocabulary_size = model.vocabulary_size
        self.capacity = batch
        self.context_per_sequence: int = llama_cpp.llama_n_ctx_seq(self._context)

    def decode(self, rows: list[Row]) -> int:
        """Runs one batch. Returns llama.cpp's status: 0, 1 when the KV cache has no room, negative when it failed."""
        batch = self._batch
        for index, row in enumerate(rows):
            batch.token[index] = row.token
            batch.pos[index] = row.position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row.sequence
            batch.logits[index] = row.wants_logits
        batch.n_tokens = len(rows)
        return int(llama_cpp.llama_decode(self._context, batch))

    def sample(self, sampler: Sampler, index: int) -> tuple[int, float]:
        """The next token after batch row `index` and its log-probability under the model, before temperature."""
        token = int(llama_cpp.llama_sampler_sample(sampler.handle, self._context, index))
        logits = np.ctypeslib.as_array(
            llama_cpp.llama_get_logits_ith(self._context, index), shape=(self._vocabulary_size,)
        )
        return token, log_probability(logits, token)

    def keep(self, sequence: int, length: int) -> None:
        """Forgets everything of a sequence from position `length` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1)


def log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    """log softmax(logits)[token], in nats."""
    highest = float(logits.max())
    return float(logits[token]) - highest - float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise EngineStartError("model_missing", f"model file {path} cannot be read: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise EngineStartError("model_damaged", f"{path} is not a GGUF file")
