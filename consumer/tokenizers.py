"""The tokenizers at hand, found by what the terms fix: the digests of tokenizer and chat template."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from consumer.exceptions import TokenizerUnusable
from consumer.tokenizer import PromptCounter
from protocol.exceptions import InvalidDocument
from protocol.gguf import read_header
from protocol.models import chat_template_digest, tokenizer_digest

_Digests = tuple[str, str | None]


class Tokenizers:
    """GGUF files whose weights do not matter. Each vocabulary is loaded when it is first wanted, and once.

    Any thread may ask.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises TokenizerUnusable if a file is missing or damaged."""
        self._files: dict[_Digests, Path] = {}
        for path in paths:
            self._files.setdefault(_digests(path), path)
        self._loaded: dict[_Digests, PromptCounter] = {}
        self._lock = threading.Lock()

    def for_document(self, document: dict[str, Any]) -> PromptCounter | None:
        """The tokenizer of the model that a terms document names; None if no file has it. Raises TokenizerUnusable."""
        model = document["model"]
        wanted = (model["tokenizer_sha256"], model["chat_template_sha256"])
        if wanted not in self._files:
            return None
        with self._lock:
            if wanted not in self._loaded:
                self._loaded[wanted] = PromptCounter(self._files[wanted])
            return self._loaded[wanted]

    def close(self) -> None:
        """Frees all vocabularies."""
        while self._loaded:
            self._loaded.popitem()[1].close()


def _digests(path: Path) -> _Digests:
    try:
        header = read_header(path)
        template = header.values.get("tokenizer.chat_template")
        return tokenizer_digest(header.raw), chat_template_digest(template if isinstance(template, str) else None)
    except OSError as error:
        raise TokenizerUnusable(f"{path} cannot be read: {error.strerror}") from error
    except InvalidDocument as error:
        raise TokenizerUnusable(f"{path} cannot be used as a tokenizer: {error}") from error
