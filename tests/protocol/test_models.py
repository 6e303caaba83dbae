"""The model registry, and the digests that identify a model's parts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.documents import DocumentType, check_document
from protocol.exceptions import InvalidDocument, ModelMismatch, UnknownModel
from protocol.models import ModelRegistry, chat_template_digest, tokenizer_digest
from tests.protocol.make_vectors import TERMS_DOCUMENT
from tests.protocol.test_canonical import values
from tests.support.tiny_gguf import write_tiny_gguf

NAME = "smollm2-135m-instruct"
ENTRY: dict[str, Any] = {
    "gguf_sha256": "a3" * 32,
    "tokenizer_sha256": "b4" * 32,
    "chat_template_sha256": "c5" * 32,
    "quantisation": "Q4_1",
    "context_length": 8192,
    "size_bytes": 98_765_432,
    "licence": "Apache-2.0",
}
DIGESTS = {name: ENTRY[name] for name in ("gguf_sha256", "tokenizer_sha256", "chat_template_sha256")}


def text_of(**changes: Any) -> str:
    return json.dumps({"schema": "clawmarket/models/1", "models": {NAME: {**ENTRY, **changes}}})


REGISTRY = ModelRegistry.from_json(text_of())


def test_registry__finds_by_name_and_file() -> None:
    entry = REGISTRY.find(NAME)
    assert dict(REGISTRY) == {NAME: entry}
    assert REGISTRY.by_gguf(ENTRY["gguf_sha256"]) is entry
    assert (entry.name, entry.context_length, entry.licence) == (NAME, 8192, "Apache-2.0")
    assert REGISTRY.digest == ModelRegistry.from_json(json.dumps(json.loads(text_of()), indent=4)).digest
    with pytest.raises(UnknownModel):
        REGISTRY.find("gpt-4")
    with pytest.raises(UnknownModel):
        REGISTRY.by_gguf("0" * 64)


def test_entry__every_digest_wrong_in_turn__is_named() -> None:
    entry = REGISTRY[NAME]
    entry.check(**DIGESTS)
    for field in DIGESTS:
        for wrong in ("0" * 64, "", None):
            with pytest.raises(ModelMismatch) as caught:
                entry.check(**{**DIGESTS, field: wrong})
            assert caught.value.field == field


@pytest.mark.parametrize(
    "change",
    [
        {"gguf_sha256": "A3" * 32},
        {"gguf_sha256": "a3" * 31},
        {"gguf_sha256": None},
        {"chat_template_sha256": ""},
        {"context_length": 0},
        {"context_length": 1.5},
        {"quantisation": "Q4 1"},
        {"licence": "MIT\n"},
        {"url": "https://models.example"},
    ],
    ids=str,
)
def test_registry__unfit_entry__is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        ModelRegistry.from_json(text_of(**change))


@pytest.mark.parametrize("name", ["", "GPT", "../model", "a b", "x" * 65, "model\n"])
def test_registry__unfit_name__is_refused(name: str) -> None:
    with pytest.raises(InvalidDocument):
        ModelRegistry.from_json(json.dumps({"schema": "clawmarket/models/1", "models": {name: ENTRY}}))


def test_registry__repeated_name__is_refused() -> None:
    entry = json.dumps(ENTRY)
    text = f'{{"schema":"clawmarket/models/1","models":{{"{NAME}":{entry},"{NAME}":{entry}}}}}'
    with pytest.raises(InvalidDocument, match="repeats a key"):
        ModelRegistry.from_json(text)


@given(values)
def test_registry__any_entry__raises_only_our_error(value: Any) -> None:
    with pytest.raises(InvalidDocument):
        ModelRegistry({"schema": "clawmarket/models/1", "models": {NAME: value}})


def test_check_terms__every_difference__is_named() -> None:
    REGISTRY.check_terms(TERMS_DOCUMENT)
    changes = {
        "gguf_sha256": "0" * 64,
        "tokenizer_sha256": "0" * 64,
        "chat_template_sha256": None,
        "quantisation": "Q8_0",
        "context_length": 8193,
    }
    for field, value in changes.items():
        document = {**TERMS_DOCUMENT, "model": {**TERMS_DOCUMENT["model"], field: value}}
        with pytest.raises(ModelMismatch) as caught:
            REGISTRY.check_terms(document)
        assert caught.value.field == field
    with pytest.raises(UnknownModel):
        REGISTRY.check_terms({**TERMS_DOCUMENT, "model": {**TERMS_DOCUMENT["model"], "name": "other"}})
    REGISTRY.check_terms({"kind": "search"})


def test_terms_model__fits_the_terms_schema() -> None:
    model = REGISTRY[NAME].terms_model(engine="llama.cpp", build="0.3.36", context_length=2048)
    assert model == TERMS_DOCUMENT["model"]
    check_document(DocumentType.TERMS, {**TERMS_DOCUMENT, "model": model})
    assert REGISTRY[NAME].terms_model(engine="llama.cpp", build="1")["context_length"] == 8192
    with pytest.raises(ModelMismatch, match="8192 tokens"):
        REGISTRY[NAME].terms_model(engine="llama.cpp", build="1", context_length=8193)


def metadata(path: Path) -> list[tuple[str, bytes]]:
    """Each key of a GGUF file with its value's bytes, from the value type on."""
    reader: Any = gguf.GGUFReader(path)
    return [
        (field.name, b"".join(part.tobytes() for part in field.parts[2:]))
        for field in reader.fields.values()
        if not field.name.startswith("GGUF.")
    ]


def test_tokenizer_digest__of_a_real_file__depends_on_the_tokenizer_only(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.gguf", "two.gguf")]
    for path in paths:
        write_tiny_gguf(path)
    fields = metadata(paths[0])
    digest = tokenizer_digest(fields)
    assert any(name == "tokenizer.ggml.tokens" for name, _ in fields)
    assert digest == tokenizer_digest(reversed(metadata(paths[1])))
    assert digest == tokenizer_digest([*fields, ("general.name", b"x"), ("tokenizer.chat_template", b"y")])
    for at, (name, value) in enumerate(fields):
        spoiled = [*fields[:at], (name, value + b"\0"), *fields[at + 1 :]]
        counts = name.startswith("tokenizer.") and not name.startswith("tokenizer.chat_template")
        assert (tokenizer_digest(spoiled) != digest) == counts


def test_tokenizer_digest__is_the_definition() -> None:
    expected = hashlib.sha256()
    for name, value in ((b"tokenizer.a", b"12"), (b"tokenizer.b", b"")):
        expected.update(len(name).to_bytes(8, "little") + name + len(value).to_bytes(8, "little") + value)
    assert tokenizer_digest([("tokenizer.b", b""), ("tokenizer.a", b"12")]) == expected.hexdigest()


@pytest.mark.parametrize("fields", [[], [("general.name", b"")], [("tokenizer.a", b""), ("tokenizer.a", b"")]])
def test_tokenizer_digest__none_or_repeated__is_refused(fields: list[tuple[str, bytes]]) -> None:
    with pytest.raises(InvalidDocument):
        tokenizer_digest(fields)


@given(st.text(max_size=50))
def test_chat_template_digest__is_sha256_of_utf8(template: str) -> None:
    assert chat_template_digest(template) == hashlib.sha256(template.encode()).hexdigest()
    assert chat_template_digest(None) is None
