"""What a GGUF file is: its digests and figures, as an offer's terms state them. Reads the header, runs nothing."""

import struct
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from protocol.models import ModelEntry, chat_template_digest, tokenizer_digest
from provider.exceptions import ConfigError
from provider.models.files import Progress, sha256_of

ENGINE_NAME = "llama.cpp"
FOREIGN_ENGINE = "openai-compatible"
_MAGIC = b"GGUF"
_MAX_FIELDS = 65_536
_MAX_HEADER_BYTES = 256 * 1024 * 1024
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# llama.cpp's `llama_ftype`
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class GgufHeader:
    """The metadata of a GGUF file: decoded scalars and strings, and every value's bytes from its type on."""

    values: dict[str, Any]
    raw: list[tuple[str, bytes]]


def read_header(path: Path) -> GgufHeader:
    """Reads the metadata. Raises ConfigError if the file is missing or damaged."""
    try:
        with path.open("rb") as file:
            return _HeaderReader(file).read()
    except OSError as error:
        raise ConfigError(f"model file {path} cannot be read: {error.strerror}") from error
    except (EOFError, UnicodeDecodeError, ValueError, struct.error) as error:
        raise ConfigError(f"model file {path} is not a readable GGUF file: {error}") from error


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


class _HeaderReader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._read = 0

    def read(self) -> GgufHeader:
        if self._take(4) != _MAGIC:
            raise ValueError("wrong magic number")
        format_version, _tensors, fields = struct.unpack("<IQQ", self._take(20))
        if format_version not in (2, 3) or fields > _MAX_FIELDS:
            raise ValueError(f"version {format_version} with {fields} fields is not supported")
        values: dict[str, Any] = {}
        raw: list[tuple[str, bytes]] = []
        for _ in range(fields):
            key = self._string()[1].decode()
            kind_bytes = self._take(4)
            value, body = self._value(struct.unpack("<I", kind_bytes)[0])
            values[key] = value
            raw.append((key, kind_bytes + body))
        return GgufHeader(values, raw)

    def _value(self, kind: int) -> tuple[Any, bytes]:
        if kind == _STRING:
            raw, text = self._string()
            return text.decode(errors="replace"), raw
        if kind == _ARRAY:
            return None, self._array()
        code = "<" + _SCALARS[kind] if kind in _SCALARS else ""
        if not code:
            raise ValueError(f"unknown value type {kind}")
        body = self._take(struct.calcsize(code))
        return struct.unpack(code, body)[0], body

    def _array(self) -> bytes:
        head = self._take(12)
        kind, count = struct.unpack("<IQ", head)
        if kind in _SCALARS:
            return head + self._take(count * struct.calcsize("<" + _SCALARS[kind]))
        if kind != _STRING:
            raise ValueError(f"array of type {kind}")
        return head + b"".join(self._string()[0] for _ in range(count))

    def _string(self) -> tuple[bytes, bytes]:
        head = self._take(8)
        text = self._take(struct.unpack("<Q", head)[0])
        return head + text, text

    def _take(self, count: int) -> bytes:
        self._read += count
        if self._read > _MAX_HEADER_BYTES:
            raise ValueError("the header is too long")
        data = self._file.read(count)
        if len(data) != count:
            raise EOFError("the file ends inside its header")
        return data
