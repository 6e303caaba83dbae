"""The tiny model's file for tests."""

import tempfile
from functools import cache
from pathlib import Path

from tests.support.tiny_gguf import CONTEXT, write_tiny_gguf


@cache
def tiny_model(context: int = CONTEXT) -> Path:
    """The tiny model's file, written once per test process."""
    folder = Path(tempfile.mkdtemp(prefix="clawmarket-tiny-"))
    return write_tiny_gguf(folder / "tiny.gguf", context=context)
