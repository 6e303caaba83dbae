"""Text leaves in whole characters, and never a part of a stop string."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.engine.text import StopText


def feed(data: bytes, cuts: list[int], stops: list[str]) -> tuple[str, bool]:
    text = StopText(stops)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    out = ""
    for start, end in pairwise(edges):
        if text.stopped:
            break
        piece = text.push(data[start:end])
        assert "\ufffd" not in piece
        out += piece
    return out + text.finish(), text.stopped


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])), st.lists(st.integers(0)))
def test_any_cut_gives_the_same_text(text: str, cuts: list[int]) -> None:
    assert feed(text.encode(), cuts, []) == (text, False)


@given(st.text("abc"), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0)))
def test_text_ends_before_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    found = [text.find(stop) for stop in stops if stop in text]
    out, stopped = feed(text.encode(), cuts, stops)
    assert stopped == bool(found)
    if not found:
        assert out == text
    else:
        assert text.startswith(out)
        assert not any(stop in out for stop in stops)


def test_possible_stop_is_held_back_until_it_is_decided() -> None:
    text = StopText(["END"])
    assert text.push(b"an E") == "an "
    assert text.push(b"N") == ""
    assert text.push(b"X") == "ENX"
    assert text.push(b" EN") == " "
    assert text.finish() == "EN"


def test_broken_bytes_become_replacement_characters() -> None:
    text = StopText([])
    assert text.push(b"a\xe2\x82") == "a"
    assert text.finish() == "\ufffd"


@pytest.mark.parametrize("stops", [[""], []])
def test_empty_stops_stop_nothing(stops: list[str]) -> None:
    text = StopText(stops)
    assert text.push(b"abc") == "abc"
    assert not text.stopped
