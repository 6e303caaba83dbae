"""Tokenizers are found by the digests that the terms fix, whatever the weights."""

from pathlib import Path

import pytest

from consumer.exceptions import TokenizerUnusable
from consumer.tokenizers import Tokenizers
from tests.support.provider_stack import make_offer
from tests.support.tiny_gguf import write_tiny_gguf


def test_a_file_with_the_terms_tokenizer_counts_whatever_its_weights(tmp_path: Path) -> None:
    other_template = write_tiny_gguf(tmp_path / "template.gguf", template="{{ messages }}")
    other_weights = write_tiny_gguf(tmp_path / "weights.gguf", seed=9)
    document = make_offer().document
    tokenizers = Tokenizers([other_template, other_weights])
    counter = tokenizers.for_document(document)
    assert counter is not None
    assert counter.count_text("hello") == 5
    assert tokenizers.for_document(document) is counter
    tokenizers.close()


def test_another_template_or_tokenizer_is_another_one(tmp_path: Path) -> None:
    document = make_offer().document
    tokenizers = Tokenizers([write_tiny_gguf(tmp_path / "template.gguf", template="{{ messages }}")])
    assert tokenizers.for_document(document) is None
    foreign = {"model": {**document["model"], "tokenizer_sha256": "0" * 64}}
    assert Tokenizers([write_tiny_gguf(tmp_path / "same.gguf")]).for_document(foreign) is None
    assert Tokenizers([]).for_document(document) is None


@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read"), (b"GGUF", "not a readable GGUF file")])
def test_a_file_that_is_none_is_a_clear_error(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerUnusable, match=reason):
        Tokenizers([path])
