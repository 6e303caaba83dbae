"""The worker's models in memory: loaded when asked for, the one unused longest put out when room is needed.

cold ──acquire──▶ loading ──▶ loaded ──room needed, nobody holds it──▶ leaving ──▶ cold
                     └─ fails ─▶ cold, and no new attempt before `retry_at`
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from protocol.headers import RefusalCode
from provider.backend import Backend
from provider.engine.errors import EngineError
from provider.exceptions import ConfigError, Refusal
from provider.offers import Offer

_log = logging.getLogger(__name__)
WAIT_S = 30.0
"""How long a request waits for its model at most."""
RETRY_DELAYS_S = (1.0, 5.0, 30.0, 120.0, 300.0)


class Server(Backend, Protocol):
    """A backend that must be started before it answers."""

    @property
    def restarts(self) -> int:
        """How often it was started again after it had ended by itself."""

    @property
    def is_ready(self) -> bool:
        """Whether a request would be taken at once."""

    async def start(self) -> None:
        """Loads the model. Raises EngineStartError."""

    async def stop(self) -> None:
        """Frees everything, also after a failed start."""


class ModelKey(NamedTuple):
    """What an offer's terms say of who answers: the model file's SHA-256 and the engine's name."""

    gguf_sha256: str
    engine: str


def key_of(offer: Offer) -> ModelKey:
    """Who has to answer for an offer."""
    model = offer.document["model"]
    return ModelKey(model["gguf_sha256"], model["engine"]["name"])


@dataclass(frozen=True)
class PooledModel:
    """How to get one model into memory. `memory` is in bytes; `check` raises ConfigError for a wrong file."""

    name: str
    memory: int
    check: Callable[[], None]
    make: Callable[[], Server]


class _State(Enum):
    COLD = "cold"
    LOADING = "loading"
    LOADED = "loaded"
    LEAVING = "leaving"


@dataclass
class _Slot:
    model: PooledModel
    state: _State = _State.COLD
    server: Server | None = None
    holds: int = 0
    last_used: int = 0
    failures: int = 0
    retry_at: float = 0.0
    failure: EngineError | ConfigError | OSError | None = field(default=None, repr=False)


class _Hold:
    def __init__(self, backend: Backend, on_release: Callable[[], None]) -> None:
        self.backend = backend
        self._on_release: Callable[[], None] | None = on_release

    def release(self) -> None:
        """Lets the model go; again is no fault."""
        on_release, self._on_release = self._on_release, None
        if on_release:
            on_release()


class ModelPool:
    """Models by what offers say of them, together within `budget` bytes."""

    def __init__(self, models: Mapping[ModelKey, PooledModel], budget: int, *, wait_s: float = WAIT_S) -> None:
        """Raises ConfigError if a model does not fit even alone."""
        for model in models.values():
            if model.memory > budget:
                raise ConfigError(
                    f"the model {model.name} needs about {_mib(model.memory)}, and all models together may use "
                    f"{_mib(budget)}: raise engine.memory, or lower engine.context or engine.parallel"
                )
        self._slots = {key: _Slot(model) for key, model in models.items()}
        self._budget = budget
        self._wait_s = wait_s
        self._uses = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def start(self) -> None:
        """Checks every file and loads as many models as there is room for. Raises ConfigError, EngineError."""
        try:
            for slot in self._slots.values():
                await asyncio.to_thread(slot.model.check)
                if self._used() + slot.model.memory <= self._budget:
                    slot.state = _State.LOADING
                    await self._bring_in(slot, [])
                    _check_loaded(slot)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends all engines, also those that are being loaded."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self._slots.values():
            await _put_out(slot)
        self._announce()

    async def acquire(self, offer: Offer) -> _Hold:
        """The backend of an offer's model, loaded and kept until the hold is released.

        Raises Refusal: `terms` for a model that is not served, `busy` without room in time, `model_unavailable` when it
        cannot be loaded.
        """
        slot = self._slots.get(key_of(offer))
        if slot is None:
            raise Refusal(RefusalCode.TERMS, f"the model of offer {offer.offer_id} is not served any more")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                return await self._wait_for(slot)
        raise Refusal(
            RefusalCode.BUSY,
            f"{slot.model.name} is not in memory and other models are in use: try again later",
            retry_after_s=math.ceil(self._wait_s),
        )

    def is_ready(self) -> bool:
        """Whether every model could be served now or after loading it."""
        return not self._is_stopping and all(
            slot.failures == 0 and (slot.server is None or slot.state is not _State.LOADED or slot.server.is_ready)
            for slot in self._slots.values()
        )

    def restarts(self) -> int:
        """How often the servers now in memory were started again."""
        return sum(slot.server.restarts for slot in self._slots.values() if slot.server is not None)

    def loaded(self) -> list[str]:
        """Names of the models in memory."""
        return [slot.model.name for slot in self._slots.values() if slot.state is _State.LOADED]

    async def _wait_for(self, slot: _Slot) -> _Hold:
        while True:
            if self._is_stopping:
                raise Refusal(RefusalCode.BUSY, "the worker is shutting down")
            if slot.state is _State.LOADED and slot.server is not None:
                self._uses += 1
                slot.last_used = self._uses
                slot.holds += 1
                return _Hold(slot.server, lambda: self._release(slot))
            if slot.state is _State.COLD:
                _check_retry(slot)
                self._try_to_load(slot)
            await self._changed.wait()

    def _try_to_load(self, slot: _Slot) -> None:
        """Starts loading if there is room, or will be once unused models have left."""
        missing = self._used() + slot.model.memory - self._budget
        victims: list[_Slot] = []
        idle = [other for other in self._slots.values() if other.state is _State.LOADED and other.holds == 0]
        for victim in sorted(idle, key=lambda other: other.last_used):
            if missing <= 0:
                break
            victims.append(victim)
            missing -= victim.model.memory
        if missing > 0:
            return
        slot.state = _State.LOADING
        for victim in victims:
            victim.state = _State.LEAVING
        task = asyncio.create_task(self._bring_in(slot, victims))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_in(self, slot: _Slot, victims: list[_Slot]) -> None:
        try:
            for victim in victims:
                await _put_out(victim)
            await self._load(slot)
        finally:
            self._announce()

    async def _load(self, slot: _Slot) -> None:
        server = slot.server = slot.model.make()
        try:
            await asyncio.to_thread(slot.model.check)
            await server.start()
            # the engine opened the file by its name after the first check
            await asyncio.to_thread(slot.model.check)
        except (EngineError, ConfigError, OSError) as error:
            await _put_out(slot)
            delay_s = RETRY_DELAYS_S[min(slot.failures, len(RETRY_DELAYS_S) - 1)]
            slot.failure, slot.failures = error, slot.failures + 1
            slot.retry_at = asyncio.get_running_loop().time() + delay_s
            _log.warning("the model %s cannot be loaded, next attempt in %.0f s: %s", slot.model.name, delay_s, error)
        except BaseException:
            await _put_out(slot)
            raise
        else:
            slot.failure, slot.failures, slot.state = None, 0, _State.LOADED
            _log.info("loaded the model %s", slot.model.name)

    def _release(self, slot: _Slot) -> None:
        slot.holds -= 1
        if slot.holds == 0:
            self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _used(self) -> int:
        return sum(slot.model.memory for slot in self._slots.values() if slot.state is not _State.COLD)


def _check_loaded(slot: _Slot) -> None:
    if slot.failure is not None:
        raise slot.failure


def _check_retry(slot: _Slot) -> None:
    wait_s = slot.retry_at - asyncio.get_running_loop().time()
    if slot.failure is not None and wait_s > 0:
        raise Refusal(
            "model_unavailable",
            f"{slot.model.name} cannot be loaded at the moment",
            status=503,
            retry_after_s=math.ceil(wait_s),
        )


async def _put_out(slot: _Slot) -> None:
    """Ends a slot's engine, whatever happens."""
    server, slot.server = slot.server, None
    try:
        if server is not None:
            await server.stop()
    except (EngineError, OSError) as error:
        _log.warning("the engine of %s did not end well: %s", slot.model.name, error)
    finally:
        slot.state = _State.COLD


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
