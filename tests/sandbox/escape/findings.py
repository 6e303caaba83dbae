"""What the whole suite found, run once: per tier, of the controls, and of the host."""

# ruff: noqa: PTH110

import errno
import importlib
import os
import pkgutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from provider.sandbox.errors import ContainerError
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.sandbox.escape import classes, host_state, suite
from tests.sandbox.escape.attempt import ATTEMPTS, call
from tests.sandbox.escape.stage import Disk
from tests.sandbox.escape.suite import Outcome
from tests.support.sandbox import Sandbox

ABSENT = "not in this kernel"
_NONSENSE = (-1, -1, -1, -1, -1)

for _module in pkgutil.iter_modules(classes.__path__):
    importlib.import_module(f"{classes.__name__}.{_module.name}")


@dataclass
class Findings:
    """`states`: the host before all tiers and after. `seconds` of each tier, and of all controls."""

    outcomes: dict[Tier, dict[str, Outcome]] = field(default_factory=dict)
    states: tuple[Any, Any] = ({}, {})
    controls: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def absent(self) -> set[str]:
        """Attempts whose control failed since the machine itself has not what they use."""
        return {name for name, each in self.controls.items() if not each.succeeded and is_absent(ATTEMPTS[name].absent)}


@contextmanager
def new_disk(sandbox: Sandbox) -> Iterator[Disk]:
    """The disk, for the time of a block."""
    disk = Disk(sandbox.paths.share)
    try:
        yield disk
    finally:
        disk.close()


def find(sandbox: Sandbox) -> Findings:
    """Runs everything."""
    found = Findings()
    before = host_state.look(sandbox.paths)
    # Two at a time, each on stages and a disk of its own. No control meanwhile: there are no walls around those.
    with ThreadPoolExecutor(2) as pool:
        timed = pool.map(lambda tier: _timed_tier(sandbox, tier), PRODUCTION_TIERS)
        for tier, (outcomes, seconds) in zip(PRODUCTION_TIERS, timed, strict=True):
            found.outcomes[tier] = outcomes
            found.seconds[tier] = seconds
    found.states = before, settled(sandbox, before)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for outcomes in pool.map(lambda control: _control(sandbox, control), suite.controls()):
            found.controls |= outcomes
    found.seconds["controls"] = time.monotonic() - started
    return found


def _timed_tier(sandbox: Sandbox, tier: Tier) -> tuple[dict[str, Outcome], float]:
    started = time.monotonic()
    with new_disk(sandbox) as disk:
        outcomes = suite.attempt_all(sandbox, disk, tier)
    return outcomes, time.monotonic() - started


def settled(sandbox: Sandbox, before: Any) -> Any:
    """The host's state, once what was killed has gone."""
    end = time.monotonic() + 10
    while (after := host_state.look(sandbox.paths)) != before and time.monotonic() < end:
        time.sleep(0.1)
    return after


def _control(sandbox: Sandbox, name: str) -> dict[str, Outcome]:
    try:
        with new_disk(sandbox) as disk:
            return suite.control(sandbox, disk, name)
    except ContainerError as error:
        of_this = [each.name for each in ATTEMPTS.values() if each.control == name]
        return {each: Outcome(each, succeeded=False, error=str(error)) for each in of_this}


def is_absent(what: str) -> bool:
    """Whether this machine lacks a file, a family of sockets or a system call."""
    if not what:
        return False
    if what.startswith("/"):
        return not os.path.exists(what)
    try:
        if what.startswith("AF_"):
            socket.socket(getattr(socket, what), socket.SOCK_SEQPACKET).close()
        else:
            call(what, *_NONSENSE)
    except OSError as error:
        return error.errno in (errno.ENOSYS, errno.EAFNOSUPPORT)
    return False
