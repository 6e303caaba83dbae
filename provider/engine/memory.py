"""How much memory an engine takes, before it is started."""

import struct
from pathlib import Path

from provider.exceptions import ConfigError
from provider.model_card import read_header

_KV_BYTES = 2  # keys and values are kept in half precision
_BATCH = 64
_MOST = 2**24  # of anything a header counts
VOCABULARY_BYTES = 160 * 1024 * 1024
"""Roughly what a process takes that only counts tokens."""
_PROCESS_BYTES = 120 * 1024 * 1024  # Python, NumPy, llama.cpp


def estimate_bytes(path: Path, context: int, parallel: int) -> int:
    """Bytes an engine of `parallel` sequences of `context` tokens takes at most. Raises ConfigError.

    Weights: the file, mapped. Keys and values: 2 bytes x layers x (key + value width of all KV heads) x context tokens,
    for each sequence and once more for embeddings. Computing: for a batch of 64 tokens its logits and some 16 rows of
    the hidden and feed-forward width, twice. Models with sliding windows or recurrent layers take less. A `context` of
    0 is the engine's default: the model's own, at most 4096.
    """
    header = read_header(path)
    values = header.values
    architecture = values.get("general.architecture")

    def figure(key: str, default: int = 0, least: int = 0) -> int:
        value = values.get(f"{architecture}.{key}")
        found = value if isinstance(value, int) else default
        if not least <= found <= _MOST:
            raise ConfigError(
                f"model file {path} cannot be served: its {architecture}.{key} is {found}, "
                f"not {least} to {_MOST}; get the file again from where it is published"
            )
        return found

    heads = figure("attention.head_count", 1, least=1)
    width = figure("embedding_length", least=1)
    head = width // heads
    kv_heads = figure("attention.head_count_kv", heads)
    kv_width = kv_heads * (figure("attention.key_length", head) + figure("attention.value_length", head))
    tokens = context or min(figure("context_length"), 4096)
    cache = _KV_BYTES * figure("block_count", least=1) * kv_width * tokens * (parallel + 1)
    vocabulary = _length(dict(header.raw).get("tokenizer.ggml.tokens", b""))
    computing = 2 * 4 * _BATCH * (vocabulary + 16 * width + 4 * figure("feed_forward_length"))
    return path.stat().st_size + cache + computing + _PROCESS_BYTES


def _length(array: bytes) -> int:
    """The number of elements of a GGUF array: its type, its elements' type, then the count."""
    return int(struct.unpack_from("<IIQ", array)[2]) if len(array) >= 16 else 0
