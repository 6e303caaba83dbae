"""Finding a swapped model: prompts whose greedy answers are known, asked like any other request.

Honest machines differ a little: measured across processors, 97 of 100 tokens are the same under teacher forcing and
log-probabilities differ by 0.03 to 0.04 on average, by 0.5 at most. Another model is far off. So a verdict is about
many tokens, never about a text being equal.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from consumer.routing.catalogue import Candidate
from consumer.routing.health import Health
from protocol.stream import StreamToken

LEAST_COMPARED = 16
"""Fewer tokens acquit nobody."""
MISSES_OF = 10
"""At most every tenth token may be another than the model's first choice…"""
LEAST_FOR_MISSES = 40
"""…counted as if at least so many had been compared: a few early differences convict nobody."""
MOST_MEAN_DIFFERENCE = 150
"""Thousandths of a nat."""
LEAST_FOR_DIFFERENCE = 8


class Verdict(StrEnum):
    """What the answers say about the model behind an offer."""

    SAME = "same"
    SWAPPED = "swapped"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Compared:
    """One answered token: whether it is the model's first choice, and how far its log-probability is off."""

    agrees: bool
    difference: int | None = None


class Probe(Protocol):
    """A prompt with something to hold its answer against."""

    @property
    def prompt(self) -> str: ...

    @property
    def max_tokens(self) -> int: ...

    async def compare(self, answered: Sequence[StreamToken]) -> list[Compared]: ...


@dataclass(frozen=True)
class Known:
    """A greedy answer recorded under a trusted run. After the first other token nothing more can be compared."""

    prompt: str
    tokens: tuple[StreamToken, ...]

    @property
    def max_tokens(self) -> int:
        """As many as were recorded."""
        return len(self.tokens)

    async def compare(self, answered: Sequence[StreamToken]) -> list[Compared]:
        """An answer that ends before the recorded one differs where it ends."""
        found: list[Compared] = []
        for at, known in enumerate(self.tokens):
            if at >= len(answered) or answered[at].token_id != known.token_id:
                return [*found, Compared(agrees=False)]
            found.append(Compared(agrees=True, difference=abs(answered[at].logprob - known.logprob)))
        return found


def judge(compared: Iterable[Compared]) -> Verdict:
    """The verdict on all tokens of all probes of one offer."""
    found = list(compared)
    misses = sum(not each.agrees for each in found)
    differences = [each.difference for each in found if each.difference is not None]
    if misses * MISSES_OF > max(len(found), LEAST_FOR_MISSES):
        return Verdict.SWAPPED
    if len(differences) >= LEAST_FOR_DIFFERENCE and sum(differences) > MOST_MEAN_DIFFERENCE * len(differences):
        return Verdict.SWAPPED
    return Verdict.SAME if len(found) >= LEAST_COMPARED else Verdict.UNDECIDED


Ask = Callable[[Candidate, str, int], Awaitable[Sequence[StreamToken]]]
"""Asks a candidate for a greedy completion of a prompt, paid and checked as any other. Raises RouteFailed."""


class Canaries:
    """`probes_of` gives the probes of a model by the SHA-256 of its file; none for a model nobody knows here."""

    def __init__(self, health: Health, ask: Ask, probes_of: Callable[[str], Sequence[Probe]]) -> None:
        self._health = health
        self._ask = ask
        self._probes_of = probes_of

    async def probe(self, candidate: Candidate) -> Verdict:
        """Asks and judges; a swapped model costs the route its trust. Raises RouteFailed."""
        compared: list[Compared] = []
        for probe in self._probes_of(candidate.offer.document["model"]["gguf_sha256"]):
            compared += await probe.compare(await self._ask(candidate, probe.prompt, probe.max_tokens))
        verdict = judge(compared)
        if verdict is Verdict.SWAPPED:
            self._health.swapped(candidate.name)
        return verdict
