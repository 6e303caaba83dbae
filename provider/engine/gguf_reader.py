"""Reads numbers and texts of a GGUF file one after another, and never more of it than its bounds allow."""

import array
import struct
from typing import BinaryIO

from provider.engine.gguf_types import SCALARS

MAX_HEADER_BYTES = 128 << 20
_CHUNK = 1 << 20


class BadModelError(Exception):
    """The file is no model that can be loaded safely; the message names what is wrong with it."""


class Reader:
    """The bytes of a file from its beginning, at most `MAX_HEADER_BYTES` of them."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._most = min(size, MAX_HEADER_BYTES)
        self._is_cut = size <= MAX_HEADER_BYTES
        self.place = 0

    def take(self, count: int, what: str) -> bytes:
        """The next bytes, which belong to `what`. Raises BadModelError."""
        self._advance(count, what)
        data = self._file.read(count)
        if len(data) != count:
            raise BadModelError(f"the file became shorter while {what} was read")
        return data

    def number(self, code: str, what: str) -> int:
        """One whole number, by its code of `struct`. Raises BadModelError."""
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0])

    def text(self, most: int, what: str) -> bytes:
        """A text of at most so many bytes, in UTF-8. Raises BadModelError."""
        length = self.number("Q", what)
        if length > most:
            raise BadModelError(f"{what} has {length:,} bytes, more than {most:,}")
        data = self.take(length, what)
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise BadModelError(f"{what} is no UTF-8") from error
        return data

    def numbers(self, kind: int, count: int, what: str) -> None:
        """Passes over numbers, none of which may be NaN: sorting by them would have no order. Raises BadModelError."""
        code = SCALARS[kind]
        width = struct.calcsize("<" + code)
        left = count * width
        self._check(left, what)
        while left:
            data = self.take(min(left, _CHUNK), what)
            left -= len(data)
            if code in "fd" and any(each != each for each in array.array(code, data)):
                raise BadModelError(f"{what} holds what is no number")

    def _advance(self, count: int, what: str) -> None:
        self._check(count, what)
        self.place += count

    def _check(self, count: int, what: str) -> None:
        if count > self._most - self.place:
            raise BadModelError(
                f"the file ends inside {what}"
                if self._is_cut
                else f"its header is longer than {MAX_HEADER_BYTES >> 20} MiB: {what} does not fit"
            )
