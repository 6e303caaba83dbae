"""Several choices and tool calls against their tokens: every honest provider passes, none that shows something else."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.answer_stream import take
from consumer.checks import Answer
from consumer.exceptions import ReceiptRejected
from consumer.shown_choices import Shape, ShownChoices
from consumer.tokenizer import PromptCounter
from protocol.merkle import response_root
from protocol.stream import StreamToken
from provider.api.chat import ChatShape
from provider.engine.text import StopText
from provider.events import Piece
from tests.consumer.test_checks import AGREEMENT, GOOD, NOW
from tests.support.tiny_gguf import FIRST_BYTE_TOKEN

LIMIT = 300
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
PIECES = [
    "a",
    " ",
    "\n",
    "é",
    "{",
    "<",
    "<tool_call>",
    "</tool_call>",
    "</tool",
    CALL,
    CALL.replace("weather", "other"),
]
PIECES += [CALL[11:-12], ";", '{"name": "weather", "parameters": {"of": [1, true]}}', "<|python_tag|>"]

Line = tuple[str, Any]
"""What a provider sends: a token, a delta of a choice, the end of a choice."""


def honest(counter: PromptCounter, texts: Iterable[str], shape: Shape, ends: bool = True) -> list[Line]:
    """A provider's answer whose choices have these texts, a token a byte."""
    lines: list[Line] = []
    chat = ChatShape("id", 0, "m", shape.tools, only_one=shape.only_one_call, has_logprobs=False)
    for number, said in enumerate(texts):
        text, choice = StopText(list(shape.stops)), chat.choice(number)
        for byte in said.encode():
            token = FIRST_BYTE_TOKEN + byte
            shown = text.push(counter.piece(token))
            lines.append(("token", token))
            lines += [("delta", (number, entry["delta"])) for entry in choice.take(Piece(number, token, -5, shown))]
            if text.stopped:
                break
        if ends:
            *deltas, _ = choice.close("stop", text.finish())
            lines += [("delta", (number, entry["delta"])) for entry in deltas]
            lines.append(("end", number))
    return lines


def hear(counter: PromptCounter, shape: Shape, lines: Iterable[Line], settles_every: int = 0) -> ShownChoices:
    """A consumer of that. Raises ReceiptRejected."""
    shown = ShownChoices(counter, shape, LIMIT * shape.choices)
    answer = Answer(AGREEMENT, shown)
    for number, (kind, value) in enumerate(lines):
        if kind == "token":
            if settles_every and number % settles_every == 0:
                shown.settle()  # a receipt comes once all of a token's deltas are there
            shown.token(value)
        elif kind == "end":
            answer.close(value)
        else:
            choice, delta = value
            take(answer, choice, delta, "content")
    shown.settle()
    return shown


shapes = st.builds(
    Shape,
    stops=st.lists(st.sampled_from(["a", "Oslo", "\n\n", "</tool_call>", "zzz"]), max_size=2).map(tuple),
    choices=st.just(3),
    tools=st.sampled_from([(), ("weather",), ("weather", "other")]),
    only_one_call=st.booleans(),
)
texts = st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map("".join), min_size=1, max_size=3)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(texts=texts, shape=shapes, ends=st.booleans(), settles_every=st.integers(0, 7))
def test_an_honest_provider_is_never_refused(
    counter: PromptCounter, texts: list[str], shape: Shape, ends: bool, settles_every: int
) -> None:
    lines = honest(counter, texts if ends else texts[:1], shape, ends)
    shown = hear(counter, shape, lines, settles_every)
    assert shown.shown == sum(kind == "token" for kind, _ in lines)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(data=st.data(), texts=texts, shape=shapes)
def test_anything_left_out_is_refused(
    counter: PromptCounter, data: st.DataObject, texts: list[str], shape: Shape
) -> None:
    lines = honest(counter, texts, shape)
    visible = [place for place, (kind, value) in enumerate(lines) if kind == "delta" and _shows(value[1])]
    if visible:
        del lines[data.draw(st.sampled_from(visible))]
        with pytest.raises(ReceiptRejected):
            hear(counter, shape, lines)


def _shows(delta: dict[str, Any]) -> bool:
    functions = [call["function"] for call in delta.get("tool_calls", ())]
    return bool(delta.get("content")) or any(each.get("name") or each["arguments"] for each in functions)


def renamed(line: Line, old: str, new: str) -> Line:
    return (line[0], json.loads(json.dumps(line[1]).replace(old, new))) if line[0] == "delta" else line


@pytest.mark.parametrize(
    ("old", "new"),
    [("Oslo", "Rome"), ("weather", "whether"), ('"content": "h"', '"content": "j"'), ('"index": 0', '"index": 1')],
    ids=["arguments", "name", "text", "number"],
)
def test_a_call_that_is_not_what_the_tokens_read_as_is_refused(counter: PromptCounter, old: str, new: str) -> None:
    shape = Shape(tools=("weather",))
    lines = honest(counter, ["hello\n" + CALL], shape)
    assert hear(counter, shape, lines).shown == len(("hello\n" + CALL).encode())
    false = [renamed(line, old, new) for line in lines]
    assert false != lines
    with pytest.raises(ReceiptRejected) as rejection:
        hear(counter, shape, false)
    assert rejection.value.field == "text"


def test_choices_swapped_are_refused(counter: PromptCounter) -> None:
    shape = Shape(choices=2)
    lines = honest(counter, ["one", "two"], shape)
    swapped = [(kind, (1 - value[0], value[1]) if kind == "delta" else value) for kind, value in lines]
    with pytest.raises(ReceiptRejected, match="choice 1 where choice 0 has its tokens"):
        hear(counter, shape, swapped)


def test_tokens_of_an_empty_choice_are_refused(counter: PromptCounter) -> None:
    shape = Shape(choices=2)
    first, padding = honest(counter, ["one"], shape), [("token", FIRST_BYTE_TOKEN + 97)] * 20
    hear(counter, shape, [*first, ("end", 1)])
    with pytest.raises(ReceiptRejected, match="20 characters of counted tokens were not delivered"):
        hear(counter, shape, [*first, *padding, ("end", 1)])
    with pytest.raises(ReceiptRejected, match="after the end of the last choice"):
        hear(counter, shape, [*first, ("end", 1), *padding])


def test_one_choice_does_not_take_what_is_the_others(counter: PromptCounter) -> None:
    shape = Shape(choices=2)
    assert hear(counter, shape, honest(counter, ["a" * LIMIT], shape)).shown == LIMIT
    with pytest.raises(ReceiptRejected, match=f"more than the {LIMIT} tokens that one choice may have"):
        hear(counter, shape, honest(counter, ["a" * (LIMIT + 1)], shape))


def test_a_call_where_no_tool_was_offered_is_refused(counter: PromptCounter) -> None:
    shape = Shape()
    calls = honest(counter, [CALL], Shape(tools=("weather",)))
    hear(counter, shape, honest(counter, [CALL], shape))
    with pytest.raises(ReceiptRejected):
        hear(counter, shape, calls)


def test_tokens_never_shown_are_not_paid_when_the_answer_breaks_off(counter: PromptCounter) -> None:
    """Without a tokenizer all that was counted is: the control."""
    paid = {}
    for shown in (ShownChoices(counter, Shape(), 4), None):
        answer = Answer(AGREEMENT, shown)
        for text in ("a", "", ""):
            answer.add(StreamToken(FIRST_BYTE_TOKEN + 97, -5), 10)
            answer.deliver(text)
        paid[shown is None] = _owed(answer, 3)
    assert paid == {False: 10 * 10 + (1 + 1) * 30, True: 10 * 10 + 3 * 30}


def _owed(answer: Answer, units_out: int) -> int:
    receipt = replace(
        GOOD,
        units_in=10,
        units_cached=0,
        units_out=units_out,
        cost=10 * 10 + units_out * 30,
        ttft_ms=10,
        response_hash=response_root([(FIRST_BYTE_TOKEN + 97, -5)] * units_out),
    )
    return answer.check_stored(receipt, unseen=1, now=NOW)
