"""What a GGUF file is: its digests and figures, as an offer's terms state them. Reads the header, runs nothing."""

from importlib.metadata import version
from pathlib import Path

from protocol import gguf
from protocol.exceptions import InvalidDocument
from protocol.models import ModelEntry, chat_template_digest, tokenizer_digest
from provider.exceptions import ConfigError
from provider.models.files import Progress, sha256_of

ENGINE_NAME = "llama.cpp"
FOREIGN_ENGINE = "openai-compatible"
# llama.cpp's `llama_ftype`
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
}  # fmt: skip


def read_header(path: Path) -> gguf.GgufHeader:
    """Reads the metadata. Raises ConfigError if the file is missing or damaged."""
    try:
        return gguf.read_header(path)
    except OSError as error:
        raise ConfigError(f"model file {path} cannot be read: {error.strerror}") from error
    except InvalidDocument as error:
        raise ConfigError(f"model file {error}") from error


def describe_model(
    path: Path, name: str, gguf_sha256: str | None = None, *, progress: Progress | None = None
) -> ModelEntry:
    """The registry entry that fits a model file, whose SHA-256 is found out unless given. Raises ConfigError."""
    header = read_header(path)
    architecture = header.values.get("general.architecture")
    context = header.values.get(f"{architecture}.context_length")
    file_type = header.values.get("general.file_type")
    if not isinstance(context, int):
        raise ConfigError(f"model file {path} does not say its context length")
    template = header.values.get("tokenizer.chat_template")
    return ModelEntry(
        name=name,
        gguf_sha256=gguf_sha256 or sha256_of(path, progress),
        tokenizer_sha256=tokenizer_digest(header.raw),
        chat_template_sha256=chat_template_digest(template if isinstance(template, str) else None),
        quantisation=_FILE_TYPES.get(file_type, f"type-{file_type}") if isinstance(file_type, int) else "unknown",
        context_length=context,
        size_bytes=path.stat().st_size,
    )


def engine_build(engine: str = ENGINE_NAME) -> str:
    """The build of the engine that serves, as the terms name it.

    Of a foreign server's build nothing can be known: there it is this program's, which counts what is billed.
    """
    return version("llama-cpp-python" if engine == ENGINE_NAME else "clawmarket")
