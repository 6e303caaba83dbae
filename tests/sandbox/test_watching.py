"""The watchdog: every anomaly is caused for real in a container and seen; a quiet one raises none."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker.models.containers import Container
from prometheus_client import CollectorRegistry

from provider.sandbox import anomalies, containers, denials
from provider.sandbox.anomalies import Kind
from provider.sandbox.containers import Job
from provider.sandbox.errors import DaemonError
from provider.sandbox.image.interpreter import program
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.policy import Limits
from provider.sandbox.tiers import Tier
from provider.sandbox.watching import Watchdog
from tests.sandbox.escape.stage import wait_until
from tests.support.sandbox import Sandbox

two_tiers = pytest.mark.parametrize("tier", [Tier.GVISOR_SYSTRAP, Tier.RUNC_SECCOMP])
PATIENCE_S = 60.0


@pytest.fixture
def watchdog(sandbox: Sandbox) -> Iterator[Watchdog]:
    forget_denials()
    yield Watchdog(sandbox.paths)
    assert containers.ours(sandbox.client) == []
    assert not list(sandbox.paths.share.glob("log-*"))


def forget_denials() -> None:
    """They are this process's, and other tests' containers had some, too."""
    assert wait_until(lambda: not any(each.name.startswith("log of") for each in threading.enumerate()), PATIENCE_S)
    denials.take()


def job(sandbox: Sandbox, source: str, role: str = "engine", memory: int = 128) -> Job:
    limits = Limits(memory=memory << 20, cpus=0.5, pids=32, tmp=1 << 20)
    return Job(role, sandbox.image.image_id, [str(program()), "-S", "-c", source], limits, subject="a-model")


def look_until(watchdog: Watchdog, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        watchdog.look()
        if reached():
            return
        time.sleep(0.1)
    raise AssertionError(f"not reached: {watchdog.anomalies()}")


def sample(watchdog: Watchdog, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(watchdog)
    return registry.get_sample_value(f"clawmarket_sandbox_{name}", labels)


def value(watchdog: Watchdog, name: str) -> float:
    return sample(watchdog, name, role="engine", subject="a-model") or 0.0


def has_ended(container: Container) -> bool:
    container.reload()
    return container.status == "exited"


def kinds(watchdog: Watchdog) -> set[Kind]:
    return {anomaly.kind for anomaly in watchdog.anomalies()}


@two_tiers
def test_a_quiet_container_raises_nothing_and_is_measured(sandbox: Sandbox, watchdog: Watchdog, tier: Tier) -> None:
    source = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\ntime.sleep(300)"
    with containers.running(sandbox.client, tier, job(sandbox, source)):
        look_until(watchdog, lambda: value(watchdog, "cpu_seconds_total") > 1)
        assert value(watchdog, "containers") == 1
        assert 1 << 20 < value(watchdog, "memory_bytes") <= value(watchdog, "memory_peak_bytes") < 128 << 20
        assert value(watchdog, "memory_limit_bytes") == 128 << 20
        assert 1 <= value(watchdog, "processes") < value(watchdog, "processes_limit")
        look_until(watchdog, lambda: value(watchdog, "throttled_periods_total") > 0)
        used = value(watchdog, "cpu_seconds_total")
    watchdog.look()
    assert value(watchdog, "cpu_seconds_total") >= used  # what has ended still counts
    assert value(watchdog, "containers") == 0
    assert watchdog.anomalies() == []


@two_tiers
def test_memory_near_its_limit(sandbox: Sandbox, watchdog: Watchdog, tier: Tier) -> None:
    """Whether the kernel kills in the end or not, it is told."""
    source = """
import time
kept = []
for n in range(240): kept.append(bytearray(b'x' * (1 << 19))); time.sleep(0.02)
"""
    with containers.running(sandbox.client, tier, job(sandbox, source)) as running:
        look_until(watchdog, lambda: Kind.MEMORY in kinds(watchdog) or Kind.MEMORY_KILL in kinds(watchdog))
        (told,) = [each for each in watchdog.anomalies() if each.kind in (Kind.MEMORY, Kind.MEMORY_KILL)][:1]
        assert containers.name_of(running) in told.what
        assert "128 MiB" in told.what
        assert "more memory" in told.do
    assert sample(watchdog, "anomalies_total", role="engine", kind=told.kind)


def test_a_kill_for_memory(sandbox: Sandbox, watchdog: Watchdog) -> None:
    """Of a child: the container goes on."""
    source = """
import os, time
if os.fork() == 0: bytearray(300 << 20)
time.sleep(300)
"""
    with containers.running(sandbox.client, Tier.RUNC_SECCOMP, job(sandbox, source)):
        look_until(watchdog, lambda: Kind.MEMORY_KILL in kinds(watchdog))
        assert value(watchdog, "memory_kills_total") >= 1


FORKS = """
import os, time
while True:
    try:
        if os.fork() == 0: time.sleep(300)
    except OSError: time.sleep(0.1)
"""


def test_forks_of_an_engine_are_told_and_of_a_job_end_it(sandbox: Sandbox, watchdog: Watchdog) -> None:
    with containers.running(sandbox.client, Tier.RUNC_SECCOMP, job(sandbox, FORKS)) as engine:
        look_until(watchdog, lambda: Kind.PROCESSES in kinds(watchdog))
        assert value(watchdog, "refused_processes_total") > 0 or value(watchdog, "processes") > 28
        engine.reload()
        assert engine.status == "running"
    with containers.running(sandbox.client, Tier.RUNC_SECCOMP, job(sandbox, FORKS, "job")) as bomb:
        look_until(watchdog, lambda: has_ended(bomb))
        assert bomb.attrs["State"]["ExitCode"] == 137
    assert sample(watchdog, "anomalies_total", role="job", kind="processes") == 1


def test_forks_under_gvisor(sandbox: Sandbox, watchdog: Watchdog) -> None:
    with containers.running(sandbox.client, Tier.GVISOR_SYSTRAP, job(sandbox, FORKS, memory=512)):
        look_until(watchdog, lambda: Kind.PROCESSES in kinds(watchdog))


def test_an_overlong_job_is_ended(sandbox: Sandbox, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(anomalies.LONGEST_S, "job", 3.0)
    source = "import time; time.sleep(300)"
    with (
        containers.running(sandbox.client, Tier.RUNC_SECCOMP, job(sandbox, source)),
        containers.running(sandbox.client, Tier.RUNC_SECCOMP, job(sandbox, source, "job")) as long,
    ):
        look_until(watchdog, lambda: has_ended(long))
    (told,) = watchdog.anomalies()
    assert told.kind is Kind.OVERLONG
    assert containers.name_of(long) in told.what


DENIED = """
import ctypes, socket, sys, time
call = ctypes.CDLL(None).syscall
TRACE = 101  # ptrace
for _ in range(int(sys.argv[1])):
    call(TRACE, 0, 0, 0, 0)
for _ in range(int(sys.argv[2])):
    try:
        socket.socket(socket.AF_INET)
    except OSError:
        pass
print("over", flush=True)
time.sleep(300)
"""
HONEST = """
import asyncio, ctypes, json, numpy, socket, subprocess, tempfile, threading, time
import provider.engine.llama
socket.socketpair(socket.AF_UNIX)
threading.Thread(target=time.sleep, args=(0.1,)).start()
tempfile.TemporaryFile().write(bytes(1 << 16))
print("over", flush=True)
time.sleep(300)
"""
gvisor = pytest.mark.parametrize("tier", [Tier.GVISOR_SYSTRAP, Tier.GVISOR_PTRACE])


def denied(sandbox: Sandbox, ptraces: int, sockets: int, role: str = "engine") -> Job:
    made = job(sandbox, DENIED, role, memory=256)
    return replace(made, command=[*made.command, str(ptraces), str(sockets)])


def is_over(container: Container) -> bool:
    return b"over" in container.logs(stderr=False)


@gvisor
def test_denied_calls_and_network_attempts_are_named(sandbox: Sandbox, watchdog: Watchdog, tier: Tier) -> None:
    with containers.running(sandbox.client, tier, denied(sandbox, 3, 2)) as running:
        look_until(watchdog, lambda: {Kind.DENIED, Kind.NETWORK} <= kinds(watchdog))
        look_until(watchdog, lambda: sample(watchdog, "denied_calls_total", role="engine", call="socket") == 2)
        told = {each.kind: each for each in watchdog.anomalies()}
        name = containers.name_of(running)
        assert told[Kind.DENIED].what == f"{name} made system calls that are denied: ptrace (3)"
        assert told[Kind.NETWORK].what == f"{name} tried to reach a network or to be reached: socket (2)"
        assert "stop serving" in told[Kind.DENIED].do
        assert kinds(watchdog) == {Kind.DENIED, Kind.NETWORK}
        running.reload()
        assert running.status == "running"
    watchdog.look()
    assert sample(watchdog, "denied_calls_total", role="engine", call="ptrace") == 3  # what has ended still counts
    assert sample(watchdog, "anomalies_total", role="engine", kind="network") == 1


@gvisor
def test_a_container_that_asks_for_nothing_odd_raises_nothing(sandbox: Sandbox, watchdog: Watchdog, tier: Tier) -> None:
    """After it another one, whose denied call shows that they are seen."""
    honest = Job("job", sandbox.image.image_id, [str(program()), "-s", "-c", HONEST], Limits(memory=512 << 20))
    with (
        containers.running(sandbox.client, tier, honest) as running,
        containers.running(sandbox.client, tier, denied(sandbox, 1, 0)) as control,
    ):
        look_until(watchdog, lambda: is_over(running) and kinds(watchdog) == {Kind.DENIED})
        assert [containers.name_of(control) in each.what for each in watchdog.anomalies()] == [True]


def test_what_a_short_job_was_denied_is_told_after_its_end(sandbox: Sandbox, watchdog: Watchdog) -> None:
    made = job(sandbox, "import socket; socket.socket(socket.AF_INET)", "job", memory=256)
    with containers.running(sandbox.client, Tier.GVISOR_SYSTRAP, made) as running:
        running.wait(timeout=PATIENCE_S)
    look_until(watchdog, lambda: kinds(watchdog) == {Kind.NETWORK})


def test_a_flood_of_denied_calls_ends_a_job_and_not_an_engine(sandbox: Sandbox, watchdog: Watchdog) -> None:
    flood = 200_000
    with (
        containers.running(sandbox.client, Tier.GVISOR_SYSTRAP, denied(sandbox, flood, 0)) as engine,
        containers.running(sandbox.client, Tier.GVISOR_SYSTRAP, denied(sandbox, 1 << 40, 0, "job")) as bomb,
    ):
        look_until(watchdog, lambda: has_ended(bomb))
        assert bomb.attrs["State"]["ExitCode"] == 137
        look_until(watchdog, lambda: sample(watchdog, "denied_calls_total", role="engine", call="ptrace") == flood)
        engine.reload()
        assert engine.status == "running"
    assert sample(watchdog, "anomalies_total", role="job", kind="flood") == 1


def test_a_guest_goes_on_when_nobody_reads_its_log(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the pipe holds, and its reader is gone."""
    monkeypatch.setattr(denials, "_listen", lambda reader, heard: os.close(reader))
    with containers.running(sandbox.client, Tier.GVISOR_SYSTRAP, denied(sandbox, 50_000, 0)) as running:
        assert wait_until(lambda: is_over(running), PATIENCE_S)


async def test_it_goes_on_looking_while_the_daemon_is_away(tmp_path: Path) -> None:
    watchdog = Watchdog(SandboxPaths.under(tmp_path))
    with pytest.raises(DaemonError):
        watchdog.look()
    looking = asyncio.create_task(watchdog.run())
    done, _ = await asyncio.wait({looking}, timeout=1)
    assert not done
    looking.cancel()
