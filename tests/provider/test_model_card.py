"""Model files are described by their own bytes."""

import hashlib
import struct
from pathlib import Path

import gguf
import pytest

from protocol.models import tokenizer_digest
from provider.exceptions import ConfigError
from provider.model_card import describe_model, read_header
from tests.support.engines import tiny_model
from tests.support.tiny_gguf import CHAT_TEMPLATE, CONTEXT, VOCABULARY, write_tiny_gguf


def test_card_names_the_file() -> None:
    entry = describe_model(tiny_model(), "tiny")
    assert entry.gguf_sha256 == hashlib.sha256(tiny_model().read_bytes()).hexdigest()
    assert entry.chat_template_sha256 == hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest()
    assert (entry.quantisation, entry.context_length) == ("F32", CONTEXT)


def test_header_agrees_with_the_reference_reader() -> None:
    header = read_header(tiny_model())
    reference = gguf.GGUFReader(tiny_model())
    fields = {name: field for name, field in reference.fields.items() if not name.startswith("GGUF.")}
    assert set(header.values) == set(fields)
    for name, value in header.values.items():
        if value is not None:
            expected = fields[name].contents()
            assert value == (pytest.approx(expected) if isinstance(value, float) else expected)
    assert len(fields["tokenizer.ggml.tokens"].contents()) == VOCABULARY


def test_tokenizer_digest_is_independent_of_the_weights(tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=2)
    first, second = describe_model(tiny_model(), "a"), describe_model(other, "b")
    assert first.tokenizer_sha256 == second.tokenizer_sha256 == tokenizer_digest(read_header(other).raw)
    assert first.gguf_sha256 != second.gguf_sha256


@pytest.mark.parametrize("length", [0, 3, 20, 24, 100, 1_000, 5_000])
def test_cut_file_is_a_clear_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_model().read_bytes()[:length])
    with pytest.raises(ConfigError, match=r"cut\.gguf is not a readable GGUF file"):
        describe_model(path, "cut")


def test_hostile_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\0" * 8 + b"\x01" + b"\0" * 7 + b"\xff" * 8)
    with pytest.raises(ConfigError, match="not a readable"):
        read_header(path)


def test_a_list_of_countless_empty_texts_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    key = b"tokenizer.ggml.merges"
    head = struct.pack("<4sIQQQ", b"GGUF", 3, 1, 1, len(key)) + key + struct.pack("<IIQ", 9, 8, 2**24)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 8 * 2**24)
    with pytest.raises(ConfigError, match="texts are not supported"):
        read_header(path)


def test_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        describe_model(tmp_path / "none.gguf", "none")
