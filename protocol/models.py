"""The model registry: which file, tokenizer and chat template a model's name stands for.

The registry is a JSON document (`schemas/models.json`). Digests are SHA-256 in lower-case hex, as `sha256sum` prints
them: of the GGUF file, of the chat template's UTF-8 text, and of the tokenizer as `tokenizer_digest` defines it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.documents import DocumentType, check_document, document_digest, parse_document
from protocol.exceptions import InvalidDocument, ModelMismatch, UnknownModel

_TOKENIZER_PREFIX = "tokenizer."
_TEMPLATE_PREFIX = "tokenizer.chat_template"
_MEASURED = ("gguf_sha256", "tokenizer_sha256", "chat_template_sha256")


def tokenizer_digest(fields: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 over the tokenizer of a GGUF file.

    `fields` are the file's metadata: each key with its value's bytes exactly as in the file, from the value type (u32)
    on. Those whose key starts with `tokenizer.` count, but for chat templates, in the order of the keys; each as
    u64 length ‖ key ‖ u64 length ‖ value, little-endian. Quantising a model does not change its digest.
    Raises InvalidDocument when there is no tokenizer or a key comes twice.
    """
    chosen: dict[bytes, bytes] = {}
    for key, value in fields:
        if not key.startswith(_TOKENIZER_PREFIX) or key.startswith(_TEMPLATE_PREFIX):
            continue
        if key.encode() in chosen:
            raise InvalidDocument("the model file repeats a metadata key")
        chosen[key.encode()] = value
    if not chosen:
        raise InvalidDocument("the model file has no tokenizer")
    state = hashlib.sha256()
    for name, value in sorted(chosen.items()):
        state.update(len(name).to_bytes(8, "little") + name + len(value).to_bytes(8, "little"))
        state.update(value)
    return state.hexdigest()


def chat_template_digest(template: str | None) -> str | None:
    """SHA-256 of the template's UTF-8 text; None for a model without one."""
    return None if template is None else hashlib.sha256(template.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """What the registry says of one model. `size_bytes` is that of the GGUF file."""

    name: str
    gguf_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str | None
    quantisation: str
    context_length: int
    size_bytes: int | None = None
    licence: str | None = None

    def check(self, *, gguf_sha256: str, tokenizer_sha256: str, chat_template_sha256: str | None) -> None:
        """Raise ModelMismatch, naming the first digest that differs, unless the measured ones are the registry's."""
        measured = (gguf_sha256, tokenizer_sha256, chat_template_sha256)
        for field, value in zip(_MEASURED, measured, strict=True):
            if getattr(self, field) != value:
                raise ModelMismatch(field, f"the file is not the {self.name} of the registry")

    def terms_model(self, *, engine: str, build: str, context_length: int | None = None) -> dict[str, Any]:
        """The `model` part of a terms document that serves this model with an engine.

        `context_length` defaults to the model's own and may not exceed it (ModelMismatch).
        """
        if context_length is not None and context_length > self.context_length:
            raise ModelMismatch("context_length", f"{self.name} was made for {self.context_length} tokens")
        return {
            "name": self.name,
            "gguf_sha256": self.gguf_sha256,
            "tokenizer_sha256": self.tokenizer_sha256,
            "chat_template_sha256": self.chat_template_sha256,
            "quantisation": self.quantisation,
            "engine": {"name": engine, "build": build},
            "context_length": self.context_length if context_length is None else context_length,
        }


class ModelRegistry(Mapping[str, ModelEntry]):
    """The checked registry, by name."""

    def __init__(self, document: dict[str, Any]) -> None:
        """Raises InvalidDocument when `document` breaks the schema."""
        check_document(DocumentType.MODELS, document)
        self._entries = {name: ModelEntry(name=name, **entry) for name, entry in document["models"].items()}
        self.digest = document_digest(document)

    @classmethod
    def from_json(cls, text: bytes | str) -> ModelRegistry:
        """Read a registry from hostile text. Raises InvalidDocument."""
        return cls(parse_document(DocumentType.MODELS, text))

    def __getitem__(self, name: str) -> ModelEntry:
        """Raises KeyError; `find` raises UnknownModel instead."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str) -> ModelEntry:
        """The entry of a name. Raises UnknownModel."""
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownModel(f"the registry lists no model {name[:64]!r}") from None

    def by_gguf(self, gguf_sha256: str) -> ModelEntry:
        """The entry of a model file. Raises UnknownModel."""
        for entry in self._entries.values():
            if entry.gguf_sha256 == gguf_sha256:
                return entry
        raise UnknownModel("the registry lists no model with this file")

    def check_terms(self, document: dict[str, Any]) -> None:
        """Raise UnknownModel or ModelMismatch unless the model of a checked terms document is the registry's."""
        if "model" not in document:
            return
        model = document["model"]
        entry = self.find(model["name"])
        entry.check(**{field: model[field] for field in _MEASURED})
        if model["quantisation"] != entry.quantisation:
            raise ModelMismatch("quantisation", f"the file is not the {entry.name} of the registry")
        if model["context_length"] > entry.context_length:
            raise ModelMismatch("context_length", f"{entry.name} was made for {entry.context_length} tokens")
