"""Answering from the best route, and from the next one when it fails, until every route was tried.

A stream that breaks is gone on with elsewhere from what the application has already; see `continuing`. With hedging a
second route is asked when the first is silent for a while, and the one that speaks first answers.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from consumer.gateway.continuing import can_continue
from consumer.gateway.events import Asked, Chunk, Delivered, FailureClass, Leg, Part, Routed, RouteFailed
from consumer.repeating import CHAT, EMBEDDINGS
from consumer.routing.names import parse_model
from consumer.routing.router import Router
from consumer.routing.routes import Needs, Plan, Route
from protocol.ids import OfferKind

_FINAL_CODES = frozenset({"invalid_request", "bad_schema"})
"""What no other route would take either, if it is true."""


class Routes(Protocol):
    """Every way to an answer."""

    def answer(self, route: Route, asked: Asked, delivered: Delivered) -> AsyncGenerator[Part, None]: ...


class HedgeGuard(Protocol):
    """Keeps hedges within their limit: what one may cost is held until it is known."""

    after_s: float

    def hold(self, route: Route, asked: Asked) -> int | None: ...

    def settle(self, held: int, leg: Leg | None, *, has_won: bool = False) -> None: ...


class Dispatcher:
    """What applications' requests go through."""

    def __init__(self, router: Router, routes: Routes, hedge: HedgeGuard | None = None) -> None:
        self._router = router
        self._routes = routes
        self._hedge = hedge

    def plan(self, asked: Asked) -> Plan:
        """The routes in the order in which they are tried. Raises RouteFailed."""
        return self._router.plan(parse_model(asked.model), needs_of(asked))

    async def answer(self, asked: Asked) -> AsyncIterator[Routed | Part]:
        """The answer's parts, each route's after it is named; closing it cancels. Raises RouteFailed."""
        plan = self.plan(asked)
        if not plan.routes:
            raise _nothing(asked, plan)
        delivered, opened = Delivered(), set[int]()
        failures: list[RouteFailed] = []
        waiting = list(plan.routes)
        while waiting:
            if delivered.text and not can_continue(asked):
                break
            route = waiting.pop(0)
            if not self._router.begin(route):
                continue
            yield Routed(route.name, _why(route, failures), len(failures))
            try:
                async with aclosing(self._from(route, waiting, asked, delivered)) as parts:
                    async for part in parts:
                        if isinstance(part, Chunk) and not (part := _without_openings(part, opened)).entries:
                            continue
                        yield part
            except RouteFailed as failure:
                if failure.leg is not None:
                    yield failure.leg
                if _is_final(failure, failures):
                    raise
                failures.append(failure)
            else:
                return
        raise _worst(failures) if failures else _nothing(asked, plan)

    async def _from(
        self, route: Route, others: list[Route], asked: Asked, delivered: Delivered
    ) -> AsyncGenerator[Part | Routed, None]:
        """One route's parts; with hedging those of the next one, if that speaks first. Raises RouteFailed."""
        if self._hedge is None or not others or delivered.text:
            async with aclosing(self._alone(route, asked, delivered)) as parts:
                async for part in parts:
                    yield part
            return
        first, second = _Runner(self._alone(route, asked, delivered)), None
        held, won, has_won = 0, None, False
        try:
            if not await first.speaks_within(self._hedge.after_s):
                other, held = self._next(others, self._hedge, asked)
                if other is None:
                    async for part in first.parts():
                        yield part
                    return
                copy = Delivered()
                second = _Runner(self._alone(other, asked, copy))
                if await _first_to_speak(first, second) is second:
                    has_won = True
                    await first.stop()
                    yield Routed(other.name, f"{route.name} was silent for {self._hedge.after_s:g} s", 1)
                    async for part in second.parts():
                        if isinstance(part, Leg):
                            won = part
                        delivered.__dict__.update(copy.__dict__)
                        yield part
                    return
                await second.stop()
            async for part in first.parts():
                yield part
        finally:
            for runner in (first, second):
                if runner is not None:
                    await runner.stop()
            self._hedge.settle(held, won, has_won=has_won)

    def _next(self, others: list[Route], hedge: HedgeGuard, asked: Asked) -> tuple[Route | None, int]:
        """The next route that may be asked within the limit, and what is held for it."""
        while others and (held := hedge.hold(others[0], asked)) is not None:
            if self._router.begin(route := others.pop(0)):
                return route, held
            hedge.settle(held, None)
        return None, 0

    async def _alone(self, route: Route, asked: Asked, delivered: Delivered) -> AsyncGenerator[Part, None]:
        outcome: Leg | RouteFailed = Leg(route.name, "cancelled")
        try:
            async with aclosing(self._routes.answer(route, asked, delivered)) as parts:
                async for part in parts:
                    if isinstance(part, Leg):
                        outcome = part
                    yield part
        except RouteFailed as failure:
            outcome = failure
            raise
        finally:
            self._router.record(route, outcome)


class _Runner:
    """A route's parts, fetched ahead by a task of their own."""

    def __init__(self, parts: AsyncGenerator[Part, None]) -> None:
        self._queue: asyncio.Queue[Part | RouteFailed | None] = asyncio.Queue()
        self.spoke = asyncio.Event()
        self.has_failed = False
        self._task = asyncio.create_task(self._run(parts))

    async def speaks_within(self, seconds: float) -> bool:
        """Whether something came, be it a failure."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.spoke.wait(), seconds)
        return self.spoke.is_set()

    async def parts(self) -> AsyncIterator[Part]:
        """All of them. Raises RouteFailed."""
        while (part := await self._queue.get()) is not None:
            if isinstance(part, RouteFailed):
                raise part
            yield part

    async def stop(self) -> None:
        """Ends the route's answer; what it brought until then is paid."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self, parts: AsyncGenerator[Part, None]) -> None:
        try:
            async with aclosing(parts):
                async for part in parts:
                    self._queue.put_nowait(part)
                    if not (isinstance(part, Chunk) and all(map(_only_opens, part.entries))):
                        self.spoke.set()
        except RouteFailed as failure:
            self.has_failed = True
            self._queue.put_nowait(failure)
        finally:
            self._queue.put_nowait(None)
            self.spoke.set()


async def _first_to_speak(first: _Runner, second: _Runner) -> _Runner:
    """The first that brings something; one that failed leaves it to the other."""
    waits = {asyncio.create_task(runner.spoke.wait()): runner for runner in (first, second)}
    try:
        while waits:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            spoken = [waits.pop(task) for task in done]
            for runner in sorted(spoken, key=lambda each: each is second):
                if not runner.has_failed:
                    return runner
        return first
    finally:
        for task in waits:
            task.cancel()


def needs_of(asked: Asked) -> Needs:
    """What a route must be able to do. Raises RouteFailed on a body that says nothing usable."""
    content = asked.content
    given = content.get("max_completion_tokens") or content.get("max_tokens") or 0
    return Needs(
        kind=OfferKind.EMBEDDING if asked.path == EMBEDDINGS else OfferKind.INFERENCE,
        prompt_tokens=None,
        max_tokens=given if isinstance(given, int) else 0,
        needs_tools=bool(content.get("tools")),
        needs_json=asked.path == CHAT and (content.get("response_format") or {}).get("type", "text") != "text",
    )


def _is_final(failure: RouteFailed, before: Sequence[RouteFailed]) -> bool:
    """Whether the request itself is wrong: by our own look at it, or by the word of two routes."""
    is_told_again = any(each.code in _FINAL_CODES for each in before)
    return failure.code in _FINAL_CODES and (failure.leg is None or is_told_again)


def _without_openings(part: Chunk, opened: set[int]) -> Chunk:
    """A chunk without entries that only say once more that the assistant speaks."""
    if not any(_only_opens(entry) for entry in part.entries):
        return part
    return Chunk([entry for entry in part.entries if not _opens_again(entry, opened)], part.tokens)


def _opens_again(entry: dict[str, Any], opened: set[int]) -> bool:
    if not _only_opens(entry):
        return False
    index = int(entry.get("index", 0))
    is_again = index in opened
    opened.add(index)
    return is_again and entry.get("finish_reason") is None


def _only_opens(entry: dict[str, Any]) -> bool:
    """Whether an entry says nothing yet."""
    delta = entry.get("delta")
    return isinstance(delta, dict) and "role" in delta and not any(delta[name] for name in delta if name != "role")


def _why(route: Route, failures: Sequence[RouteFailed]) -> str:
    return f"{failures[-1].failure.value}: {failures[-1]}" if failures else route.reason


def _nothing(asked: Asked, plan: Plan) -> RouteFailed:
    reasons = "; ".join(f"{each.route}: {', '.join(each.reasons)}" for each in plan.excluded[:5])
    return RouteFailed(
        FailureClass.OVERLOAD,
        f"no route for {asked.model} now ({reasons or 'the market cannot be seen'})",
        status=503,
        code="no_route",
        retry_after_s=plan.retry_after_s,
    )


def _worst(failures: Sequence[RouteFailed]) -> RouteFailed:
    """What the application is told when all failed: a refusal of its request before troubles of the routes."""
    told = next((each for each in failures if each.failure is FailureClass.BAD_REQUEST), failures[-1])
    tried = "; ".join(f"{each.leg.route if each.leg else 'route'}: {each.failure.value}" for each in failures)
    error = RouteFailed(
        told.failure,
        f"{told} (tried: {tried})",
        status=told.status,
        code=told.code,
        param=told.param,
        retry_after_s=told.retry_after_s,
    )
    error.__cause__ = told
    return error
