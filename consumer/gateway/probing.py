"""Canaries at work: every provider with a lease in use is asked a question now and then whose answer can be checked.

The first comes soon after a lease is first used, the others at times that nobody can foresee. Each is an ordinary paid
request, through routing, budgets and receipts like any other: none goes where routing sends no request.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from consumer.exceptions import TokenizerUnusable
from consumer.gateway.events import Asked, Chunk, Part, Routed, RouteFailed
from consumer.gateway.references import References
from consumer.repeating import COMPLETIONS
from consumer.routing.canary import Canaries, Probe, Verdict
from consumer.routing.catalogue import Candidate
from consumer.routing.health import Health
from consumer.routing.probe_prompts import new_prompt
from consumer.routing.reference import Forced, LocalReference
from consumer.routing.routes import Plan
from protocol.ids import OfferKind
from protocol.stream import StreamToken

LOOK_S = 5.0
"""How often it is looked whether a canary is due."""
MOST_S = 600.0
"""A canary that takes longer is given up: the model it is compared with takes memory."""
PROMPTS, TOKENS = 3, 24
KNOWN_PROMPTS = 8
"""A recorded answer says nothing more after its first difference, so that it takes more of them."""

_VERDICTS = frozenset(Verdict)

_drawn = random.SystemRandom()
_log = logging.getLogger(__name__)


class Asking(Protocol):
    """The dispatcher."""

    def plan(self, asked: Asked) -> Plan: ...

    def answer(self, asked: Asked) -> AsyncIterator[Routed | Part]: ...


@dataclass(frozen=True)
class _Probed:
    """What is known of a route, since when in Unix seconds; `due` is by a clock that never goes back."""

    verdict: str
    at: int
    due: float


class Probing:
    """`run` it on the gateway's event loop."""

    def __init__(
        self,
        period_s: float,
        *,
        candidates: Callable[[], Iterable[Candidate]],
        is_used: Callable[[Candidate], bool],
        dispatcher: Asking,
        health: Health,
        references: References,
    ) -> None:
        """`is_used` says whether there is an open lease of an offer under which something was bought."""
        self._period_s = period_s
        self._candidates = candidates
        self._is_used = is_used
        self._dispatcher = dispatcher
        self._health = health
        self._references = references
        self._probed: dict[str, _Probed] = {}

    async def run(self) -> None:
        """Probes until cancelled; never with a period of 0."""
        while self._period_s:
            await asyncio.sleep(min(LOOK_S, self._period_s))
            for candidate in [each for each in self._candidates() if self._is_due(each)]:
                await self.probe(candidate)

    async def probe(self, candidate: Candidate) -> Verdict:
        """One canary; one that could not be asked comes again after a whole period, and hides no earlier verdict."""
        verdict, told = Verdict.UNDECIDED, "no_reference"
        try:
            async with asyncio.timeout(MOST_S), self._probes(candidate) as probes:
                if probes:
                    verdict = await Canaries(self._health, self._ask, lambda _: probes).probe(candidate)
                    told = verdict.value
        except RouteFailed as failed:
            told = failed.failure.value
        except (TokenizerUnusable, TimeoutError) as error:
            told = "failed"
            _log.warning("the canary for %s failed: %s", candidate.name, error or "it took too long")
        if verdict is Verdict.SWAPPED:
            _log.warning("%s answers with another model than the one that is sold", candidate.name)
        self._note(candidate.name, told)
        return verdict

    def shown(self) -> dict[str, dict[str, Any]]:
        """The last verdict on each route, for people; before the first, why there is none."""
        return {name: {"verdict": each.verdict, "at": each.at} for name, each in sorted(self._probed.items())}

    def _is_due(self, candidate: Candidate) -> bool:
        last = self._probed.get(candidate.name)
        if candidate.kind is not OfferKind.INFERENCE or (last is not None and time.monotonic() < last.due):
            return False
        return self._is_used(candidate) and bool(self._dispatcher.plan(_question(candidate, "", TOKENS)).routes)

    def _note(self, route: str, told: str) -> None:
        last, at = self._probed.get(route), int(time.time())
        if last is not None and last.verdict in _VERDICTS and told not in _VERDICTS:
            told, at = last.verdict, last.at
        period = self._period_s * _drawn.uniform(0.5, 1.5)
        self._probed[route] = _Probed(told, at, time.monotonic() + period)

    @asynccontextmanager
    async def _probes(self, candidate: Candidate) -> AsyncIterator[Sequence[Probe]]:
        digest = str(candidate.offer.document["model"]["gguf_sha256"])
        async with self._references.of(digest) as found:
            if isinstance(found, LocalReference):
                yield [Forced(found, new_prompt(), TOKENS) for _ in range(PROMPTS)]
            else:
                yield _drawn.sample(found, min(KNOWN_PROMPTS, len(found)))

    async def _ask(self, candidate: Candidate, prompt: str, max_tokens: int) -> Sequence[StreamToken]:
        """Raises RouteFailed."""
        asked = _question(candidate, prompt, max_tokens)
        tokens: list[StreamToken] = []
        async with aclosing(self._dispatcher.answer(asked)) as parts:  # type: ignore[type-var]
            async for part in parts:
                if isinstance(part, Chunk):
                    tokens += part.tokens
        return tokens


def _question(candidate: Candidate, prompt: str, max_tokens: int) -> Asked:
    content = {"model": candidate.name, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    return Asked(COMPLETIONS, content, "")
