"""Several nodes of one chain, each with its own health: one that failed rests, twice as long each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from protocol.chain.deployments import Deployment
from protocol.chain.exceptions import ChainError, RpcUnavailable, WrongChain
from protocol.chain.rpc import Call, RpcLimits, RpcPool

T = TypeVar("T")
LIMITS = RpcLimits(rounds=1, read_s=30.0, total_s=120.0, max_bytes=64 * 1024 * 1024)


@dataclass
class _Node:
    pool: RpcPool
    longest_rest_s: float
    failures: int = 0
    rests_until: float = field(default=0.0)
    failed_ever: int = 0

    def worked(self) -> None:
        self.failures, self.rests_until = 0, 0.0

    def failed(self) -> None:
        self.failures += 1
        self.failed_ever += 1
        self.rests_until = time.monotonic() + min(0.25 * 2 ** min(self.failures, 16), self.longest_rest_s)


class Endpoints:
    """The nodes at these addresses. Thread-safe; no request is sent on construction. Times are in seconds."""

    def __init__(
        self,
        urls: Sequence[str],
        deployment: Deployment,
        *,
        limits: RpcLimits = LIMITS,
        rounds: int = 6,
        longest_rest_s: float = 30.0,
    ) -> None:
        self._nodes = [
            _Node(RpcPool([url], deployment.chain_id, deployment.genesis_hash, limits), longest_rest_s) for url in urls
        ]
        self._rounds = rounds
        self._threads = ThreadPoolExecutor(len(self._nodes), thread_name_prefix="rpc")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for node in self._nodes:
            node.pool.close()

    @property
    def failures(self) -> list[int]:
        """How often each endpoint failed since the start, in the order of the addresses."""
        return [node.failed_ever for node in self._nodes]

    @property
    def majority(self) -> int:
        """How many endpoints are more than half of them."""
        return len(self._nodes) // 2 + 1

    def ask(
        self, calls: Sequence[Call], read: Callable[[list[Any]], T], passing: tuple[type[Exception], ...] = ()
    ) -> T:
        """What `read` makes of the first answers it accepts; it refuses them with a ChainError.

        An error of the types `passing` is the question's own fault: it is raised at once and no node is blamed.
        Raises WrongChain when every node serves another chain, RpcUnavailable when none gives an accepted answer.
        """
        failures: list[ChainError] = []
        for attempt in range(self._rounds):
            if attempt:
                time.sleep(min(0.25 * 2 ** (attempt - 1), 4.0))
            failures = []
            for node in self._healthy_first():
                try:
                    result = read(node.pool.batch(calls))
                except ChainError as error:
                    if isinstance(error, passing):
                        raise
                    node.failed()
                    failures.append(error)
                else:
                    node.worked()
                    return result
            if all(isinstance(failure, WrongChain) for failure in failures):
                raise failures[0]
        raise RpcUnavailable("; ".join(dict.fromkeys(str(failure) for failure in failures)))

    def ask_all(self, calls: Sequence[Call], read: Callable[[list[Any]], T]) -> list[T]:
        """What every node that answers properly says, all asked at once; resting ones only if a majority needs them.

        Raises WrongChain when all of them serve another chain, RpcUnavailable when none answers.
        """
        now = time.monotonic()
        asked = [node for node in self._nodes if node.rests_until <= now]
        if len(asked) < self.majority:
            asked = self._nodes

        def one(node: _Node) -> T | ChainError:
            try:
                result = read(node.pool.batch(calls))
            except ChainError as error:
                node.failed()
                return error
            node.worked()
            return result

        answers = list(self._threads.map(one, asked))
        failures = [answer for answer in answers if isinstance(answer, ChainError)]
        if len(failures) == len(answers):
            if all(isinstance(failure, WrongChain) for failure in failures):
                raise failures[0]
            raise RpcUnavailable("; ".join(dict.fromkeys(str(failure) for failure in failures)))
        return [answer for answer in answers if not isinstance(answer, ChainError)]

    def _healthy_first(self) -> list[_Node]:
        now = time.monotonic()
        return sorted(self._nodes, key=lambda node: max(node.rests_until - now, 0.0))
