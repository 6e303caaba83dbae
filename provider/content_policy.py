"""What the owner does not want to serve: phrases by category, in one TOML file.

    [categories.weapons]              # a tag of the terms document's content_policy.refuses
    phrases = ["pipe bomb", "炸药配方"]
    max = 0                           # by default: how many of them one request may hold

Phrases are found as whole words, whatever their case and however Unicode spells them; scripts written without spaces
are taken character by character. A text is read once, from front to back, whatever it holds.
"""

import re
import sys
import tomllib
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provider.exceptions import ConfigError, Refusal
from provider.offers import Offer

MAX_MARKS = 30
"""Combining marks in a row that count; Unicode's own limit (UAX 15). Sorting endless rows would take square time."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

Tag = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$", max_length=32)]
Phrase = Annotated[str, Field(min_length=1, max_length=200)]


class _Category(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    phrases: list[Phrase] = Field(min_length=1, max_length=10_000)
    max: int = Field(default=0, ge=0)


class _Rules(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    categories: dict[Tag, _Category] = Field(max_length=32)


class ContentPolicy:
    """The rules, ready to be applied."""

    def __init__(self, rules: _Rules) -> None:
        self.categories = frozenset(rules.categories)
        self._most = {tag: category.max for tag, category in rules.categories.items()}
        self._machine = _Machine()
        for tag, category in rules.categories.items():
            for number, phrase in enumerate(category.phrases, start=1):
                words = tuple(_words(phrase))
                if not words:
                    raise ConfigError(f"content policy: phrase {number} of {tag} holds no word")
                self._machine.add(words, (tag, number))
        self._machine.link()

    @classmethod
    def load(cls, path: Path) -> "ContentPolicy":
        """Reads a rules file. Raises ConfigError."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls(_Rules.model_validate(content))
        except OSError as error:
            raise ConfigError(f"content policy {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"content policy {path} is not TOML: {error}") from error
        except ValidationError as error:
            fault = error.errors(include_input=False)[0]
            place = ".".join(str(step) for step in fault["loc"])
            raise ConfigError(f"content policy {path}: {place}: {fault['msg']}") from error

    def check(self, texts: Iterable[str]) -> None:
        """Raises Refusal for what the policy refuses. It names category and rule, and never repeats the text."""
        found: Counter[str] = Counter()
        for text in texts:
            for tag, number in self._machine.find(_words(text)):
                found[tag] += 1
                if found[tag] > self._most[tag]:
                    raise Refusal(
                        "content_policy",
                        f"the provider's content policy refuses {tag}; nothing is charged",
                        status=403,
                        category=tag,
                        rule=f"{tag}.{number}",
                    )


def check_policy_matches(policy: ContentPolicy | None, offers: Iterable[Offer]) -> None:
    """Raises ConfigError unless every offer's terms say exactly what is refused."""
    refused = policy.categories if policy else frozenset()
    for offer in offers:
        promised = frozenset(offer.document["content_policy"]["refuses"])
        if promised != refused:
            raise ConfigError(
                f"offer {offer.offer_id} says that it refuses {_list(promised)}, the content policy refuses "
                f"{_list(refused)}: change policy.rules, or publish a new version of the offer"
            )


class _Machine:
    """Aho and Corasick's automaton over words: every phrase in one pass."""

    def __init__(self) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail: list[int] = [0]
        self._ends: list[list[tuple[str, int]]] = [[]]
        self._shorter: list[int] = [0]

    def add(self, words: tuple[str, ...], rule: tuple[str, int]) -> None:
        """One phrase."""
        state = 0
        for word in words:
            if word not in self._next[state]:
                self._next[state][word] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self._ends.append([])
                self._shorter.append(0)
            state = self._next[state][word]
        self._ends[state].append(rule)

    def link(self) -> None:
        """To be called once, after the last phrase."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            fail = self._fail[state]
            self._shorter[state] = fail if self._ends[fail] else self._shorter[fail]
            for word, after in self._next[state].items():
                self._fail[after] = self._step(fail, word)
                queue.append(after)

    def find(self, words: Iterable[str]) -> Iterator[tuple[str, int]]:
        """The rule of every occurrence."""
        state = 0
        for word in words:
            state = self._step(state, word)
            ending = state
            while ending:
                yield from self._ends[ending]
                ending = self._shorter[ending]

    def _step(self, state: int, word: str) -> int:
        while state and word not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(word, 0)


def _words(text: str) -> Iterator[str]:
    return (found.group() for found in _WORD.finditer(_plain(text)))


def _plain(text: str) -> str:
    """One spelling for what looks alike: compatibility forms and case folded, invisible characters gone."""
    if text.isascii():
        return text.lower()
    marks, invisible = _classes()
    text = marks.sub(r"\1", invisible.sub("", text))
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@cache
def _classes() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Rows of combining marks that are too long, and format characters, which no reader sees."""
    everything = [chr(point) for point in range(sys.maxunicode + 1)]
    marks = _class_of(each for each in everything if unicodedata.combining(each))
    invisible = _class_of(each for each in everything if unicodedata.category(each) == "Cf")
    return re.compile(f"({marks}{{{MAX_MARKS}}}){marks}+"), re.compile(f"{invisible}+")


def _class_of(characters: Iterable[str]) -> str:
    ranges: list[list[int]] = []
    for point in map(ord, characters):
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]"


def _list(tags: frozenset[str]) -> str:
    return ", ".join(sorted(tags)) or "nothing"
