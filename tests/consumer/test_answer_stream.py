"""Readers of event streams differ in what they make of odd lines: nothing counts that one would not show."""

import json
from typing import Any

import pytest
from openai._streaming import SSEDecoder

from consumer.answer_stream import AnswerStream, Lines
from consumer.checks import Answer
from consumer.exceptions import ProviderFailed, ReceiptRejected
from consumer.repeating import CHAT, COMPLETIONS
from consumer.shown_choices import Shape, ShownChoices
from consumer.tokenizer import PromptCounter
from protocol.stream import StreamToken, encode_line
from tests.consumer.test_checks import AGREEMENT
from tests.support.tiny_gguf import FIRST_BYTE_TOKEN

TOKEN = encode_line(StreamToken(FIRST_BYTE_TOKEN + ord("a"), -5)).encode() + b"\n\n"
SHOWN = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'


def stream_of(counter: PromptCounter, content: bytes, path: str = CHAT, shape: Shape | None = None) -> AnswerStream:
    """What a consumer makes of these bytes. Raises ReceiptRejected, ProviderFailed."""
    stream = AnswerStream(Answer(AGREEMENT, ShownChoices(counter, shape or Shape(), 4)), path)
    for _ in stream.feed(Lines().feed(content)):
        pass
    shown = stream.answer.shown
    assert shown is not None
    shown.settle()
    return stream


def read_by_openai(content: bytes) -> str:
    """What the `openai` package shows of them."""
    text = ""
    for event in SSEDecoder().iter_bytes(iter([content])):
        if event.data.startswith("[DONE]"):
            break
        chunk: Any = json.loads(event.data)
        text += "".join(choice.get("delta", {}).get("content", "") for choice in chunk["choices"])
    return text


def test_an_honest_stream_is_read_alike(counter: PromptCounter) -> None:
    for content in (TOKEN + SHOWN + b"data: [DONE]\n\n", (TOKEN + SHOWN).replace(b"\n", b"\r\n")):
        assert stream_of(counter, content).answer.units_out == 1
        assert read_by_openai(content) == "a"


ODD = {
    "two lines in one event": TOKEN + SHOWN.replace(b"\n\n", b"\n") + SHOWN.replace(b'"a"', b'""'),
    "a lone carriage return": TOKEN + SHOWN.replace(b'"choices":', b'"choices":\r'),
    "after the end": b"data: [DONE]\n\n" + TOKEN + SHOWN,
    "a field besides data": b"event: thread.x\n" + TOKEN + SHOWN,
    "data without a space": TOKEN + SHOWN + SHOWN.replace(b"data: ", b"data:"),
    "no UTF-8": TOKEN + SHOWN + SHOWN.replace(b'"a"', b'"\xff"'),
    "a mark before the first line": b"\xef\xbb\xbf" + TOKEN + SHOWN,
    "a comment inside an event": TOKEN + SHOWN.replace(b"\n\n", b"\n") + b": x\ndata: {}\n\n",
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD.keys())
def test_a_line_that_readers_take_differently_ends_the_answer(counter: PromptCounter, content: bytes) -> None:
    with pytest.raises(ProviderFailed):
        stream_of(counter, content)


@pytest.mark.parametrize(
    "choice",
    [
        {"index": 0, "text": "a"},
        {"index": 0, "delta": {"text": "a"}},
        {"index": 1, "delta": {"content": "a"}},
        {"index": 0, "delta": {"reasoning": "a"}},
        {"index": 0, "message": {"content": "a"}},
    ],
)
def test_text_where_a_chat_does_not_show_it_is_not_paid(counter: PromptCounter, choice: dict[str, Any]) -> None:
    content = TOKEN + f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
    with pytest.raises((ReceiptRejected, ProviderFailed)):
        stream_of(counter, content, CHAT, Shape(choices=2))


def test_a_completion_shows_its_text_elsewhere(counter: PromptCounter) -> None:
    with pytest.raises(ReceiptRejected, match="not delivered"):
        stream_of(counter, TOKEN + SHOWN, COMPLETIONS)
    stream_of(counter, TOKEN + b'data: {"choices": [{"index": 0, "text": "a"}]}\n\n', COMPLETIONS)


def test_every_choice_of_a_chunk_counts(counter: PromptCounter) -> None:
    both = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}, '
    both += b'{"index": 1, "delta": {"content": "%s"}}]}\n\n'
    stream_of(counter, TOKEN + both % b"", CHAT, Shape(choices=2))
    with pytest.raises(ReceiptRejected, match="not what the tokens read as"):
        stream_of(counter, TOKEN + both % b"b", CHAT, Shape(choices=2))
