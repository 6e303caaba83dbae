"""The periodic tick: jobs one after another, none of which can stop another or the tick itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from protocol.chain.exceptions import ChainError
from provider.exceptions import ProviderError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A part of the tick; `name` goes into the log."""

    name: str
    run: Callable[[], Awaitable[object]]


class Upkeep:
    """Runs its jobs in order, every `tick_s` seconds."""

    def __init__(self, jobs: Sequence[Job], tick_s: float) -> None:
        self._jobs = jobs
        self._tick_s = tick_s

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(self._tick_s)

    async def tick(self) -> None:
        """Every job once. A job that fails is logged, and runs again with the next tick."""
        for job in self._jobs:
            try:
                await job.run()
            except (ChainError, ProviderError) as error:
                _log.warning("%s goes on later: %s", job.name, error)
            except Exception as error:  # noqa: BLE001
                # an unexpected error's text may hold what a client sent; its place tells enough
                _log.error("%s failed, and is tried again: %s", job.name, place_of(error))


def place_of(error: BaseException) -> str:
    """An unexpected error for the log: its class and where it arose, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{where}"
