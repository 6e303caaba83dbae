"""The gate for new requests: shut while the owner needs the machine, and while the worker is going down."""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from protocol.headers import RefusalCode
from provider.exceptions import Refusal
from provider.host.decision import Decision, HostLimits, decide
from provider.host.readings import Readings
from provider.upkeep import place_of

_log = logging.getLogger(__name__)
RETRY_AFTER_S = 60
"""What clients are told where nobody can know how long it takes."""
MAX_RETRY_AFTER_S = 7 * 86_400


class _Reader(Protocol):
    def read(self) -> Readings: ...


def _local_now() -> datetime:
    return datetime.now().astimezone()


class Gate:
    """Requests that run go on whatever happens here: promises are kept."""

    def __init__(
        self,
        limits: HostLimits,
        sensors: _Reader,
        *,
        period_s: float = 5.0,
        local_now: Callable[[], datetime] = _local_now,
    ) -> None:
        """`local_now` gives the owner's wall clock as an aware time."""
        self.limits = limits
        self.readings: Readings | None = None
        self.decision = Decision(is_open=True)
        self.is_draining = False
        self._sensors = sensors
        self._period_s = period_s
        self._local_now = local_now

    def check_open(self) -> None:
        """Raises Refusal when no new request may start."""
        if self.is_draining:
            raise Refusal(
                RefusalCode.BUSY,
                "the provider is stopping: ask another one",
                status=503,
                retry_after_s=RETRY_AFTER_S,
            )
        if not self.decision.is_open:
            raise Refusal(
                RefusalCode.BUSY,
                f"the provider is paused: {'; '.join(self.decision.reasons)}",
                status=503,
                retry_after_s=self._retry_after_s(),
            )

    async def start(self) -> None:
        """Takes the first readings, so that nothing is served that the owner does not allow."""
        await asyncio.to_thread(self._sensors.read)  # what is counted needs a first time
        await asyncio.sleep(min(0.2, self._period_s))
        await self.sample()
        for name in self.limits.unreadable(self.readings) if self.readings else ():
            _log.warning("host.%s cannot be watched on this machine: it limits nothing", name)

    async def run(self) -> None:
        """Watches for ever; a look that fails keeps what was decided before."""
        while True:
            await asyncio.sleep(self._period_s)
            try:
                await self.sample()
            except Exception as error:  # noqa: BLE001
                _log.error("the machine could not be read, what was decided stands: %s", place_of(error))

    async def sample(self) -> None:
        """Takes readings in a thread, and decides."""
        self.readings = await asyncio.to_thread(self._sensors.read)
        before, self.decision = self.decision, decide(self.readings, self.limits, self._local_now(), self.decision)
        if before.is_open and not self.decision.is_open:
            _log.info("no new requests: %s", "; ".join(self.decision.reasons))
        elif self.decision.is_open and not before.is_open:
            _log.info("open for new requests again")

    async def drain(self, running: Callable[[], int], bound_s: float) -> int:
        """From now on no new requests; returns how many still run when none does, or after `bound_s` seconds."""
        self.is_draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + bound_s
        while (left := running()) and loop.time() < until:  # noqa: ASYNC110 - counts have no event
            await asyncio.sleep(0.05)
        return left

    def _retry_after_s(self) -> int:
        wait_s = self.limits.schedule.seconds_to_opening(self._local_now())
        return min(MAX_RETRY_AFTER_S, max(RETRY_AFTER_S, math.ceil(wait_s)))
