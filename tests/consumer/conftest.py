"""Fixtures of the consumer's tests."""

from collections.abc import Iterator

import pytest

from consumer.tokenizer import PromptCounter
from tests.support.engines import tiny_model


@pytest.fixture(scope="session")
def counter() -> Iterator[PromptCounter]:
    """The tiny model's tokenizer."""
    found = PromptCounter(tiny_model())
    yield found
    found.close()
