"""The header of a GGUF file: its metadata, read as hostile bytes. Neither weights nor tokenizer are loaded."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from protocol.exceptions import InvalidDocument

_MAGIC = b"GGUF"
_MAX_FIELDS = 65_536
_MAX_HEADER_BYTES = 256 * 1024 * 1024
_MAX_TEXTS = 1 << 21  # of all lists: each costs memory, however short
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """The metadata of a GGUF file: decoded scalars and strings, and every value's bytes from its type on."""

    values: dict[str, Any]
    raw: list[tuple[str, bytes]]


def read_header(path: Path) -> GgufHeader:
    """Reads the metadata. Raises OSError, and InvalidDocument if the file is damaged."""
    try:
        with path.open("rb") as file:
            return _HeaderReader(file).read()
    except (EOFError, UnicodeDecodeError, ValueError, struct.error) as error:
        raise InvalidDocument(f"{path} is not a readable GGUF file: {error}") from error


class _HeaderReader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._read = 0
        self._texts = 0

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
        self._texts += count
        if self._texts > _MAX_TEXTS:
            raise ValueError(f"lists of more than {_MAX_TEXTS} texts are not supported")
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
