"""Prompts and tokens as the tokenizer and chat template of a GGUF file, which the terms fix, see them; no weights."""

import ctypes
import os
from pathlib import Path
from typing import Any, cast

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from consumer.exceptions import TokenizerUnusable

_MAX_VALUE_BYTES = 1024 * 1024
_MAX_PIECE_BYTES = 1024


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(_level: int, _text: bytes, _user_data: ctypes.c_void_p) -> None:
    """llama.cpp describes every file it opens; failures come back as return values."""


def silence() -> None:
    """llama.cpp keeps quiet from now on."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))


class PromptCounter:
    """The tokenizer of one model file, with `size` tokens; their ids run from 0."""

    def __init__(self, model: Path) -> None:
        """Raises TokenizerUnusable if the file is missing, no GGUF file, or without chat template."""
        if not model.is_file():
            raise TokenizerUnusable(f"{model} does not exist")
        silence()
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(model), params)
        if not self._model:
            raise TokenizerUnusable(f"{model} is not a readable GGUF file")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self._pieces: dict[int, bytes] = {}
        template = self._metadata("tokenizer.chat_template")
        if template is None:
            self.close()
            raise TokenizerUnusable(f"{model} has no chat template")
        self._adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocabulary)
        self._bos = self._special("tokenizer.ggml.bos_token_id")
        self._formatter = Jinja2ChatFormatter(
            template=template, eos_token=self._special("tokenizer.ggml.eos_token_id"), bos_token=self._bos
        )

    def count(self, messages: list[dict[str, Any]]) -> int:
        """Tokens of the rendered prompt."""
        return len(self.prompt(messages))

    def prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        """The rendered prompt."""
        text = self._formatter(messages=cast("Any", messages)).prompt
        adds_bos = self._adds_bos and not (self._bos and text.startswith(self._bos))
        return self._tokens_of(text, adds_bos=adds_bos, parse_special=True)

    def count_prompt(self, text: str) -> int:
        """Tokens of a text that is a prompt by itself."""
        return len(self.text_prompt(text))

    def text_prompt(self, text: str) -> list[int]:
        """A text that is a prompt by itself."""
        return self._tokens_of(text, adds_bos=self._adds_bos, parse_special=True)

    def count_text(self, text: str) -> int:
        """Tokens that plain text takes; what looks like a control token in it is text."""
        return len(self.text(text))

    def text(self, text: str) -> list[int]:
        """Plain text."""
        return self._tokens_of(text, adds_bos=False, parse_special=False)

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The prompt as text, without the token that servers put before every text."""
        text = self._formatter(messages=cast("Any", messages)).prompt
        return text.removeprefix(self._bos) if self._adds_bos else text

    def piece(self, token: int) -> bytes:
        """The bytes a token of an answer stands for; control tokens stand for none."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._read_piece(token)
        return found

    def _read_piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(_MAX_PIECE_BYTES)
        length = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, _MAX_PIECE_BYTES, 0, False)
        return buffer.raw[: max(length, 0)]

    def close(self) -> None:
        """Frees the vocabulary."""
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def _tokens_of(self, text: str, *, adds_bos: bool, parse_special: bool) -> list[int]:
        data = text.encode(errors="replace")
        size = len(data) + 2
        tokens = (llama_cpp.llama_token * size)()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), tokens, size, adds_bos, parse_special)
        if count < 0:
            tokens = (llama_cpp.llama_token * -count)()
            count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), tokens, -count, adds_bos, parse_special)
        return list(tokens[:count])

    def _metadata(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(_MAX_VALUE_BYTES)
        length = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, _MAX_VALUE_BYTES)
        return buffer.value.decode(errors="replace") if 0 <= length < _MAX_VALUE_BYTES else None

    def _special(self, key: str) -> str:
        token = self._metadata(key)
        if token is None:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocabulary, int(token)) or b""
        return text.decode(errors="replace")
