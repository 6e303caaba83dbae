"""The tick: nothing that fails stops it, or what comes after."""

import logging

import pytest

from protocol.chain.exceptions import RpcUnavailable
from provider.exceptions import LedgerError
from provider.upkeep import Job, Upkeep


@pytest.mark.parametrize("error", [RpcUnavailable("no node"), LedgerError("disk full"), KeyError("secret"), OSError()])
async def test_failing_job_stops_neither_the_others_nor_the_next_tick(error: Exception) -> None:
    done: list[str] = []

    async def fail() -> None:
        done.append("first")
        raise error

    async def work() -> None:
        done.append("second")

    upkeep = Upkeep([Job("failing", fail), Job("working", work)], tick_s=0)
    for _ in range(2):
        await upkeep.tick()
    assert done == ["first", "second"] * 2


async def test_failures_are_logged_and_an_unexpected_ones_text_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async def known() -> None:
        raise LedgerError("disk full")

    async def unknown() -> None:
        raise ValueError("a client's words")

    with caplog.at_level(logging.WARNING):
        await Upkeep([Job("settling", known), Job("anchoring", unknown)], tick_s=0).tick()
    assert "settling goes on later: disk full" in caplog.text
    assert "anchoring failed, and is tried again: ValueError at " in caplog.text
    assert "words" not in caplog.text
