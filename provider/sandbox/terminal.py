"""Shows what a stranger's program prints: as it is to a file, without control characters to a terminal."""

import codecs
import sys
import unicodedata
from typing import TextIO

from provider.sandbox.streaming import Stream

_KEPT = "\n\t"


class Printer:
    """Hands on both streams of one program."""

    def __init__(self) -> None:
        self._shown = {Stream.OUT: sys.stdout, Stream.ERR: sys.stderr}
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stream: decoder(errors="replace") for stream in Stream}

    def __call__(self, stream: Stream, data: bytes) -> None:
        """Prints `data` at once."""
        shown = self._shown[stream]
        if shown.isatty():
            shown.write(harmless(self._decoders[stream].decode(data)))
        else:
            _write(shown, data)
        shown.flush()


def harmless(text: str) -> str:
    """`text` without what moves a terminal's cursor, changes its settings or the order of letters."""
    return "".join("�" if unicodedata.category(each) in ("Cc", "Cf") and each not in _KEPT else each for each in text)


def _write(shown: TextIO, data: bytes) -> None:
    shown.buffer.write(data)
