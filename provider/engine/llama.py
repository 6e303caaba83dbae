"""llama.cpp behind two small classes: `Model` (weights, vocabulary) and `Batcher` (context).

Greedy answers in a batch are the same as alone, which verification by teacher forcing relies on: sequences are kept
apart (`kv_unified=False`), and the scheduler never decodes one row of a long sequence by itself (`LONE_CELLS`).
"""

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from provider.engine.errors import EngineStartError
from provider.engine.gguf_check import check_model
from provider.engine.gguf_reader import BadModelError
from provider.engine.llama_log import keep_errors, last_errors
from provider.engine.threads import ThreadPool

MAX_PIECE_BYTES = 1024
LONE_CELLS = 256
"""Beyond so many cells llama.cpp's flash attention sums a batch of one row in another order than other batches."""


@dataclass(frozen=True)
class Row:
    """One token of a batch: its sequence, its position there, and whether its logits are wanted."""

    token: int
    sequence: int
    position: int
    wants_logits: bool = False


class Model:
    """Weights and vocabulary of one GGUF file."""

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        """Loads the file. Raises EngineStartError: `model_missing`, `model_damaged`."""
        _check_file(path)
        keep_errors()
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = vocabulary_only
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise EngineStartError("model_damaged", f"{path} cannot be loaded: {last_errors()}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._piece_buffer = ctypes.create_string_buffer(MAX_PIECE_BYTES)
        self.piece = functools.cache(self._read_piece)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocab)
        self.dimensions: int = llama_cpp.llama_model_n_embd(self._model)

    @property
    def handle(self) -> Any:
        """llama.cpp's model pointer."""
        return self._model

    @property
    def vocabulary(self) -> Any:
        """llama.cpp's vocabulary pointer."""
        return self._vocab

    @functools.cached_property
    def trained_context(self) -> int:
        """Tokens the model was trained to look back on."""
        return int(self.metadata(f"{self.metadata('general.architecture')}.context_length") or 0)

    @functools.cached_property
    def silent_tokens(self) -> npt.NDArray[np.int32]:
        """The tokens that neither write anything nor end an answer."""
        tokens = range(self.vocabulary_size)
        return np.array([each for each in tokens if not self.piece(each) and not self.ends_generation(each)], np.int32)

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

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of `text`; `parse_special` reads control tokens written in it (the chat template writes them)."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 2
        while True:
            tokens = (llama_cpp.llama_token * size)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, size, add_special, parse_special)
            if count >= 0:
                return list(tokens[:count])
            size = -count

    def _read_piece(self, token: int) -> bytes:
        """The bytes a token stands for; control tokens stand for none."""
        length = llama_cpp.llama_token_to_piece(self._vocab, token, self._piece_buffer, MAX_PIECE_BYTES, 0, False)
        return self._piece_buffer.raw[: max(length, 0)]

    def ends_generation(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))


class Batcher:
    """A context for several sequences, decoding one batch of rows at a time."""

    def __init__(
        self, model: Model, *, context: int, sequences: int, pool: ThreadPool, batch: int, embeds: bool = False
    ) -> None:
        """`context` is in tokens per sequence, `batch` in rows. Raises EngineStartError: `out_of_memory`."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context * sequences
        params.n_seq_max = sequences
        params.n_batch = batch
        params.n_ubatch = batch
        params.n_threads = pool.threads
        params.n_threads_batch = pool.threads
        params.kv_unified = False
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.no_perf = True
        params.embeddings = embeds
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        self.handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise EngineStartError("out_of_memory", f"no context of {sequences} x {context} tokens: {last_errors()}")
        pool.attach(self.handle)
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self._batch = llama_cpp.llama_batch_init(batch, 0, 1)
        self._vocabulary_size = model.vocabulary_size
        self._width = model.dimensions
        self.capacity = batch
        self.context_per_sequence: int = llama_cpp.llama_n_ctx_seq(self.handle)

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
        return int(llama_cpp.llama_decode(self.handle, batch))

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """The logits after batch row `index`, valid until the next decode."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.handle, index), shape=(self._vocabulary_size,))

    def embedding(self, index: int) -> npt.NDArray[np.float32]:
        """The embedding at batch row `index`, valid until the next decode."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_ith(self.handle, index), shape=(self._width,))

    def keep(self, sequence: int, length: int) -> None:
        """Forgets everything of a sequence from position `length` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1)


def _check_file(path: Path) -> None:
    try:
        check_model(path)
    except OSError as error:
        raise EngineStartError("model_missing", f"model file {path} cannot be read: {error.strerror}") from error
    except BadModelError as error:
        raise EngineStartError("model_damaged", f"{path} is not a model that is safe to load: {error}") from error
