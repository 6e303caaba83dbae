"""The owner's content policy: what it finds, what it cannot be made to do, and that it repeats nothing."""

import time
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.content_policy import ContentPolicy, _Machine, _words, check_policy_matches
from provider.exceptions import ConfigError, Refusal
from provider.offers import Offer
from tests.support.provider_stack import make_offer

RULES = """
[categories.weapons]
phrases = ["pipe bomb", "bomb", "炸药配方", "café noir"]
[categories.spam]
phrases = ["buy now"]
max = 2
"""


@pytest.fixture(name="policy")
def _policy(tmp_path: Path) -> ContentPolicy:
    return load(tmp_path, RULES)


def load(folder: Path, rules: str) -> ContentPolicy:
    path = folder / "policy.toml"
    path.write_text(rules, encoding="utf-8")
    return ContentPolicy.load(path)


def refused(policy: ContentPolicy, *texts: str) -> str | None:
    """The rule that refuses these texts."""
    try:
        policy.check(texts)
    except Refusal as found:
        refusal = found
    else:
        return None
    assert (refusal.code, refusal.status) == ("content_policy", 403)
    assert refusal.details["category"] == str(refusal.details["rule"]).partition(".")[0]
    assert not any(text and text in f"{refusal} {refusal.details}" for text in texts)
    return str(refusal.details["rule"])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("how to make a pipe   BOMB?", "weapons.1"),
        ("a pipe,\n-- bomb", "weapons.1"),
        ("bomb", "weapons.2"),
        ("ｐｉｐｅ ｂｏｍｂ", "weapons.1"),
        ("pi\u200bpe bo\u00admb", "weapons.1"),
        ("CAFÉ noir", "weapons.4"),
        (unicodedata.normalize("NFD", "café noir"), "weapons.4"),
        ("请告诉我炸药配方是什么", "weapons.3"),
        ("bombastic pipe", None),
        ("the pipe; a bombshell", None),
        ("", None),
    ],
)
def test_what_is_found(policy: ContentPolicy, text: str, rule: str | None) -> None:
    assert refused(policy, text) == rule


def test_texts_are_apart_and_counted_together(policy: ContentPolicy) -> None:
    assert refused(policy, "pipe", "dream") is None
    assert refused(policy, "buy now", "buy now") is None
    assert refused(policy, "buy now, buy now", "well: buy now") == "spam.1"


_letters = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)


@given(st.lists(_letters, min_size=1, max_size=6), st.lists(st.sampled_from("abc"), max_size=60))
def test_every_occurrence_is_found_as_by_looking_everywhere(phrases: list[list[str]], words: list[str]) -> None:
    machine = _Machine()
    for number, phrase in enumerate(phrases):
        machine.add(tuple(phrase), ("all", number))
    machine.link()
    expected = Counter(
        number
        for number, phrase in enumerate(phrases)
        for start in range(len(words))
        if words[start : start + len(phrase)] == phrase
    )
    assert Counter(number for _, number in machine.find(words)) == expected


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    assert all(_words(text))


HOSTILE = {
    "marks": "a" + "\u0315\u0300" * 200_000,
    "prefixes": "pipe " * 200_000,
    "one word": "x" * 1_000_000,
    "ligatures": "\ufdfa" * 50_000,
    "invisible": "b\u200b" * 300_000,
    "unspaced": "炸药" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_text_and_no_faster(policy: ContentPolicy, name: str) -> None:
    """Eight times the text takes at most some thirty times as long: square time would be sixty-four."""
    text = HOSTILE[name]
    policy.check(["é"])

    def best_of_three(part: str) -> float:
        times = []
        for _ in range(3):
            started = time.process_time()
            policy.check([part])
            times.append(time.process_time() - started)
        return max(min(times), 0.002)

    assert best_of_three(text) < 32 * best_of_three(text[: len(text) // 8])


def test_without_its_limit_on_marks_the_time_is_square() -> None:
    """Positive control: what the limit is for."""

    def seconds(count: int) -> float:
        started = time.process_time()
        unicodedata.normalize("NFKC", "a" + "\u0315\u0300" * count)
        return time.process_time() - started

    assert seconds(16_000) > 6 * max(min(seconds(4_000) for _ in range(3)), 1e-6)


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ("[categories.weapons]\nphrases = []", "phrases"),
        ("[categories.Weapons]\nphrases = ['x']", "categories"),
        ("[categories.weapons]\nphrases = ['!?']", "phrase 1 of weapons holds no word"),
        ("[categories.weapons]\nphrases = ['x']\nregex = '.*'", "regex"),
        ("[categories.weapons]\nphrases = ['x']\nmax = -1", "max"),
        ("not toml", "is not TOML"),
    ],
)
def test_mistakes_in_rules_are_told(tmp_path: Path, rules: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load(tmp_path, rules)


def test_missing_rules_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        ContentPolicy.load(tmp_path / "none.toml")


def offer_refusing(*tags: str) -> Offer:
    offer = make_offer()
    return replace(offer, document={**offer.document, "content_policy": {"refuses": list(tags)}})


def test_offers_must_say_what_is_refused(policy: ContentPolicy) -> None:
    check_policy_matches(policy, [offer_refusing("spam", "weapons")])
    check_policy_matches(None, [offer_refusing()])
    for bad, tags in ((policy, ["weapons"]), (policy, []), (None, ["weapons"]), (policy, ["spam", "weapons", "x"])):
        with pytest.raises(ConfigError, match="says that it refuses"):
            check_policy_matches(bad, [offer_refusing(*tags)])
