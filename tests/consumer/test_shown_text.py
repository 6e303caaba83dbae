"""Tokens against delivered text: everything an honest provider sends passes, padding in any spelling does not."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.exceptions import ReceiptRejected
from consumer.shown_text import INVISIBLE_EVERY, SPELLING_FACTOR, SPELLING_SLACK, ShownText
from consumer.tokenizer import PromptCounter
from provider.engine.text import StopText
from scripts.default_model import default_model
from tests.support.tiny_gguf import FIRST_BYTE_TOKEN, VOCABULARY

SENTENCE = "The quick brown fox jumps over the lazy dog because nobody told it about international standards. "


@pytest.fixture(scope="module")
def real() -> Iterator[PromptCounter]:
    """The default model's tokenizer."""
    found = PromptCounter(default_model())
    yield found
    found.close()


def speak(counter: PromptCounter, tokens: list[int], stops: tuple[str, ...], ends: bool, chunk: int = 3) -> str:
    """An honest provider's answer in these tokens, held against its text after every few; what it showed."""
    provider, consumer, shown = StopText(list(stops)), ShownText(counter, stops), ""
    for number, token in enumerate(tokens, start=1):
        text = provider.push(counter.piece(token))
        consumer.token(token)
        if text:
            consumer.delivered(text)
        shown += text
        if number % chunk == 0:
            consumer.settle()
        if provider.stopped:
            break
    rest = provider.finish() if ends else ""
    if rest:
        consumer.delivered(rest)
    consumer.settle()
    return shown + rest


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.integers(FIRST_BYTE_TOKEN, VOCABULARY - 1) | st.sampled_from(list(b"abc")).map(lambda b: b + 3)),
    stops=st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=4), max_size=3).map(tuple),
    ends=st.booleans(),
    chunk=st.integers(1, 5),
)
def test_an_honest_provider_is_never_refused(
    counter: PromptCounter, tokens: list[int], stops: tuple[str, ...], ends: bool, chunk: int
) -> None:
    shown = speak(counter, tokens, stops, ends, chunk)
    assert not any(stop in shown for stop in stops)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(tokens=st.lists(st.integers(17, 49_151), max_size=60), ends=st.booleans())
def test_a_real_vocabulary_in_any_order_is_never_refused(real: PromptCounter, tokens: list[int], ends: bool) -> None:
    speak(real, tokens, (), ends)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(data=st.data(), text=st.text(st.sampled_from("abcé"), min_size=1, max_size=20))
def test_text_that_differs_in_one_place_is_refused(counter: PromptCounter, data: st.DataObject, text: str) -> None:
    place = data.draw(st.integers(0, len(text) - 1))
    other = text[:place] + data.draw(st.sampled_from(["", "x", text[place] * 2])) + text[place + 1 :]
    consumer = ShownText(counter, ())
    for byte in text.encode():
        consumer.token(FIRST_BYTE_TOKEN + byte)

    def deliver() -> None:
        consumer.delivered(other)
        consumer.settle()

    with pytest.raises(ReceiptRejected):
        deliver()


def test_text_may_not_run_ahead_of_its_tokens(counter: PromptCounter) -> None:
    consumer = ShownText(counter, ())
    consumer.token(FIRST_BYTE_TOKEN + ord("a"))
    with pytest.raises(ReceiptRejected, match="not what the tokens read as"):
        consumer.delivered("ab")


def test_a_cut_character_ends_the_answer(counter: PromptCounter) -> None:
    consumer = ShownText(counter, ())
    consumer.token(FIRST_BYTE_TOKEN + "é".encode()[0])
    consumer.delivered("\ufffd")
    with pytest.raises(ReceiptRejected, match="after the end"):
        consumer.token(FIRST_BYTE_TOKEN + "é".encode()[1])


def test_control_tokens_are_padding_beyond_their_share(counter: PromptCounter) -> None:
    consumer = ShownText(counter, ())
    consumer.token(1)
    for _ in range(INVISIBLE_EVERY):
        consumer.token(FIRST_BYTE_TOKEN + ord("a"))
    consumer.token(1)
    with pytest.raises(ReceiptRejected, match="3 of 19 tokens carry no text"):
        consumer.token(1)


def test_the_vocabulary_has_an_end(counter: PromptCounter) -> None:
    assert counter.size == VOCABULARY
    with pytest.raises(ReceiptRejected, match=f"vocabulary of {VOCABULARY}"):
        ShownText(counter, ()).token(VOCABULARY)


def test_words_spelled_out_letter_by_letter_are_padding(real: PromptCounter) -> None:
    letters = {real.piece(token): token for token in range(real.size) if len(real.piece(token)) == 1}
    consumer = ShownText(real, ())
    text = SENTENCE * 3
    for byte in text.encode():
        consumer.token(letters[bytes([byte])])
        consumer.delivered(chr(byte))
    needed = real.count_text(text)
    assert len(text) > SPELLING_FACTOR * needed + SPELLING_SLACK
    with pytest.raises(ReceiptRejected, match=f"{len(text)} tokens for a text that takes {needed}"):
        consumer.settle()
