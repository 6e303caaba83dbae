"""What a model file's header may say of its size."""

import struct
from pathlib import Path

import pytest

from provider.engine.memory import estimate_bytes
from provider.exceptions import ConfigError
from tests.support.engines import tiny_model

_UINT32 = struct.pack("<I", 4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.head_count", 0),
        ("attention.head_count", 2**32 - 1),
        ("attention.head_count_kv", 2**32 - 1),
        ("embedding_length", 0),
        ("block_count", 0),
        ("block_count", 2**32 - 1),
        ("feed_forward_length", 2**32 - 1),
        ("context_length", 2**32 - 1),
    ],
)
def test_absurd_figures_are_a_clear_error(tmp_path: Path, key: str, value: int) -> None:
    good = tiny_model().read_bytes()
    at = good.index(f"llama.{key}".encode() + _UINT32) + len(f"llama.{key}") + len(_UINT32)
    path = tmp_path / "changed.gguf"
    path.write_bytes(good)
    assert estimate_bytes(path, 0, 1) > 0
    path.write_bytes(good[:at] + struct.pack("<I", value) + good[at + 4 :])
    with pytest.raises(ConfigError, match=rf"its llama\.{key} is {value}"):
        estimate_bytes(path, 0, 1)
