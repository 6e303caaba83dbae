"""Model files with 8-bit weights (Q8_0), for which llama.cpp has kernels that compute several requests at once."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from provider.exceptions import ConfigError
from provider.model_card import read_header


def convert(source: Path, out: Path) -> None:
    """Writes `source` with Q8_0 weights as `out`, whole or not at all. Raises ConfigError; `out` must not exist."""
    read_header(source)
    if out.exists():
        raise ConfigError(f"{out} exists: give another name, or remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            made = Path(folder) / out.name
            _quantise(source, made)
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.rename(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}): check the folder and the disk") from error


def _quantise(source: Path, out: Path) -> None:
    import llama_cpp

    from provider.engine.llama_log import keep_errors, last_errors

    keep_errors()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(out), params) != 0:
        raise ConfigError(f"model file {source} cannot be converted: {last_errors()}")
