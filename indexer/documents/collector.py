"""Rounds of asking for what is missing. Who has nothing rests, twice as long each time."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from urllib.parse import urlsplit

from indexer.documents.fetching import Fetcher
from indexer.documents.questions import Question, about_offers, about_providers
from indexer.documents.wanted import wanted_offers, wanted_providers
from indexer.exceptions import NotFetched
from indexer.store.database import Database
from indexer.store.shapes import shape_of
from protocol.exceptions import InvalidDocument
from protocol.typed_data import Domain

FIRST_REST_S, LONGEST_REST_S = 10.0, 3_600.0
_HOSTS = 8
"""Asked at once; each answers one question at a time."""
_QUESTIONS = 20
"""To one host in a round."""
Report = Callable[[str], None]


class Collector:
    """Fills the tables of documents. `addresses` are asked also for providers that nobody here knows yet."""

    def __init__(
        self, database: Database, domain: Domain, addresses: Sequence[str], fetcher: Fetcher, report: Report
    ) -> None:
        self._database = database
        self._domain = domain
        self._addresses = [address.rstrip("/") for address in addresses]
        self._fetcher = fetcher
        self._report = report
        self._rests: dict[tuple[str, str], tuple[float, float]] = {}
        self._slots = asyncio.Semaphore(_HOSTS)

    async def round(self) -> int:
        """Asks everybody who does not rest; returns how many documents were found. Raises StoreError."""
        self._forget_old_rests()
        found = await self._ask(about_providers(wanted_providers(self._database), self._addresses, self._domain))
        return found + await self._ask(about_offers(wanted_offers(self._database)))

    async def _ask(self, questions: Iterable[Question]) -> int:
        by_host = defaultdict[str, list[Question]](list)
        for question in questions:
            if self._rests.get((question.address, question.path), (0.0, 0.0))[0] <= time.monotonic():
                by_host[urlsplit(question.address).netloc].append(question)
        return sum(await asyncio.gather(*(self._ask_host(each) for each in by_host.values())))

    async def _ask_host(self, questions: Sequence[Question]) -> int:
        found = 0
        async with self._slots:
            for question in islice(questions, _QUESTIONS):
                try:
                    answer = await self._fetcher.get(question.address + question.path, question.most_bytes)
                    row = question.read(answer)
                except (NotFetched, InvalidDocument) as error:
                    self._rest(question)
                    self._report(f"{question.address}{question.path}: {error}")
                    continue
                with self._database.transaction():
                    self._database.upsert(shape_of(question.model), [row])
                found += 1
        return found

    def _rest(self, question: Question) -> None:
        key = question.address, question.path
        length = min(2 * self._rests.get(key, (0.0, FIRST_REST_S / 2))[1], LONGEST_REST_S)
        self._rests[key] = time.monotonic() + length, length

    def _forget_old_rests(self) -> None:
        """Those that ended long ago: nobody has asked again."""
        oldest = time.monotonic() - LONGEST_REST_S
        self._rests = {key: rest for key, rest in self._rests.items() if rest[0] > oldest}
