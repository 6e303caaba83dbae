"""Holds a model file against what GGUF allows, before native code believes it. The weights are not read.

`python -m provider.engine.gguf_check PATH` exits with 0, or with 4 after one line that says what is wrong. Every engine
does the same before it loads its model.
"""

import math
import os
import re
import struct
import sys
from pathlib import Path

from provider.engine.gguf_reader import BadModelError, Reader
from provider.engine.gguf_tensors import check_tensors
from provider.engine.gguf_types import ARRAY, BOOL, SCALARS, STRING

EXIT_BAD = 4
MAGIC = b"GGUF"
MAX_KEYS, MAX_TENSORS = 4_096, 65_536
MAX_KEY_BYTES, MAX_TEXT_BYTES = 256, 1 << 20
MAX_TEMPLATE_BYTES = 256 << 10
MAX_VOCABULARY, MAX_TOKEN_BYTES = 1 << 20, 2_048
MAX_TEXTS, MAX_LIST_TEXT_BYTES = 1 << 21, 4_096
_MAX_ALIGNMENT = 65_536
_NO_TOKEN = 2**32 - 1
_KEY = re.compile(rb"[!-~]+")
_TOKENS, _TEMPLATE = "tokenizer.ggml.tokens", "tokenizer.chat_template"
_ONE_PER_TOKEN = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_FIGURES = {  # of the architecture: the least and the most that can be meant
    "block_count": (1, 512),
    "context_length": (1, 1 << 27),
    "embedding_length": (1, 1 << 17),
    "feed_forward_length": (0, 1 << 20),
    "attention.head_count": (1, 4_096),
    "attention.head_count_kv": (0, 4_096),
    "attention.key_length": (1, 1 << 14),
    "attention.value_length": (1, 1 << 14),
    "rope.dimension_count": (0, 1 << 14),
    "expert_count": (0, 4_096),
    "expert_used_count": (0, 4_096),
    "vocab_size": (1, MAX_VOCABULARY),
}
_REQUIRED = ("block_count", "context_length", "embedding_length", "attention.head_count")
_SCALAR_LEAST = {"attention.layer_norm_rms_epsilon": 0.0, "attention.layer_norm_epsilon": 0.0, "rope.freq_base": 1e-9}

Value = int | float | str


def check_model(path: Path) -> None:
    """Reads the file's header once. Raises BadModelError, OSError."""
    with path.open("rb", buffering=1 << 18) as file:
        size = os.fstat(file.fileno()).st_size
        reader = Reader(file, size)
        if reader.take(4, "its first bytes") != MAGIC:
            raise BadModelError("it is not a GGUF file")
        if (version := reader.number("I", "the version")) not in (2, 3):
            raise BadModelError(f"version {version} of GGUF is not known, only 2 and 3")
        tensors = _count(reader, "tensors", MAX_TENSORS)
        metadata = _Metadata(reader, _count(reader, "keys", MAX_KEYS, least=0))
        metadata.check()
        check_tensors(reader, tensors, metadata.alignment(), size)


def _count(reader: Reader, what: str, most: int, least: int = 1) -> int:
    count = reader.number("Q", f"the number of {what}")
    if not least <= count <= most:
        raise BadModelError(f"it announces {count:,} {what}, not {least} to {most:,}")
    return count


class _Metadata:
    """The keys with their values, of lists only the lengths."""

    def __init__(self, reader: Reader, count: int) -> None:
        self._reader = reader
        self._values: dict[str, Value] = {}
        self._lengths: dict[str, int] = {}
        self._texts = 0
        self._missing_byte: int | None = None
        for number in range(count):
            name = reader.text(MAX_KEY_BYTES, f"the name of key {number}")
            if not _KEY.fullmatch(name):
                raise BadModelError(f"the name of key {number} is no plain word")
            self._read(name.decode())

    def _read(self, key: str) -> None:
        if key in self._values or key in self._lengths:
            raise BadModelError(f"the key {key} is there twice")
        kind = self._reader.number("I", f"the type of {key}")
        if kind == ARRAY:
            self._lengths[key] = self._list(key)
        elif kind == STRING:
            most = MAX_TEMPLATE_BYTES if key.startswith(_TEMPLATE) else MAX_TEXT_BYTES
            self._values[key] = self._reader.text(most, key).decode()
        elif kind in SCALARS:
            self._values[key] = self._scalar(kind, key)
        else:
            raise BadModelError(f"{key} has the unknown type {kind}")

    def _scalar(self, kind: int, key: str) -> int | float:
        code = "<" + SCALARS[kind]
        value: int | float = struct.unpack(code, self._reader.take(struct.calcsize(code), key))[0]
        if not math.isfinite(value) or (kind == BOOL and value > 1):
            raise BadModelError(f"{key} is no value of its type")
        return value

    def _list(self, key: str) -> int:
        kind = self._reader.number("I", f"the type of {key}")
        count = self._reader.number("Q", f"the length of {key}")
        if kind in SCALARS:
            self._reader.numbers(kind, count, key)
        elif kind != STRING:
            raise BadModelError(f"{key} is a list of type {kind}: lists hold texts or numbers only")
        elif key == _TOKENS:
            self._vocabulary(count)
        else:
            self._texts += count
            if self._texts > MAX_TEXTS:
                raise BadModelError(f"{key} has {count:,} texts: all lists together may have {MAX_TEXTS:,}")
            for _ in range(count):
                self._reader.text(MAX_LIST_TEXT_BYTES, f"a text of {key}")
        return count

    def _vocabulary(self, count: int) -> None:
        """Tokens are found by their text: a text that is there twice makes llama.cpp give up the process."""
        if not 1 <= count <= MAX_VOCABULARY:
            raise BadModelError(f"its vocabulary has {count:,} tokens, not 1 to {MAX_VOCABULARY:,}")
        seen: set[bytes] = set()
        for number in range(count):
            text = self._reader.text(MAX_TOKEN_BYTES, f"token {number}")
            if text and text in seen:
                raise BadModelError(f"token {number} has the text of another one")
            seen.add(text)
        missing = (byte for byte in range(256) if b"<0x%02X>" % byte not in seen and bytes([byte]) not in seen)
        self._missing_byte = next(missing, None)

    def alignment(self) -> int:
        """Of tensors in the file, in bytes."""
        alignment = self._values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise BadModelError(f"general.alignment is {alignment!r}, not a power of two from 8 to {_MAX_ALIGNMENT:,}")
        return alignment

    def check(self) -> None:
        """Whether values fit each other."""
        architecture = self._values.get("general.architecture")
        if not isinstance(architecture, str) or not re.fullmatch(r"[a-z0-9._-]{1,64}", architecture):
            raise BadModelError("general.architecture names no architecture")
        if self._values.get("split.count", 0) not in (0, 1):
            raise BadModelError("it is one part of several: join them with llama-gguf-split --merge")
        for name in _REQUIRED:
            if f"{architecture}.{name}" not in self._values and f"{architecture}.{name}" not in self._lengths:
                raise BadModelError(f"{architecture}.{name} is missing")
        for name, (least, most) in _FIGURES.items():
            self._check_figure(f"{architecture}.{name}", least, most)
        for name, floor in _SCALAR_LEAST.items():
            value = self._values.get(f"{architecture}.{name}", 1.0)
            if isinstance(value, str) or value < floor:
                raise BadModelError(f"{architecture}.{name} is {value!r}, less than {floor}")
        self._check_tokenizer()

    def _check_figure(self, key: str, least: int, most: int) -> None:
        value = self._values.get(key)
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            raise BadModelError(f"{key} is {str(value)[:40]}, not {least} to {most:,}")

    def _check_tokenizer(self) -> None:
        tokens = self._lengths.get(_TOKENS)
        if tokens is None:
            raise BadModelError("it has no vocabulary")
        if self._values.get("tokenizer.ggml.model") == "llama" and self._missing_byte is not None:
            raise BadModelError(f"no token stands for the byte {self._missing_byte}: a prompt with it ends the process")
        for key in _ONE_PER_TOKEN:
            if self._lengths.get(key, tokens) != tokens:
                raise BadModelError(f"{key} has {self._lengths[key]:,} entries for {tokens:,} tokens")
        for key, value in self._values.items():
            if not (key.startswith("tokenizer.ggml.") and key.endswith("_token_id")):
                continue
            if not isinstance(value, int) or not (0 <= value < tokens or value in (_NO_TOKEN, -1)):
                raise BadModelError(f"{key} is {str(value)[:40]}, and there are {tokens:,} tokens")


def main(path: str) -> int:
    """Says on standard error what is wrong with the file; returns the exit code."""
    try:
        check_model(Path(path))
    except (BadModelError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
