"""The watchdog: every anomaly is caused for real in a container and seen; a quiet one raises none."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container
from prometheus_client import CollectorRegistry

from provider.sandbox import anomalies, containers
from provider.sandbox.anomalies import Kind
from provider.sandbox.containers import Job
from provider.sandbox.errors import DaemonError
from provider.sandbox.image.interpreter import program
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.policy import Limits
from provider.sandbox.tiers import Tier
from provider.sandbox.watching import Watchdog
from tests.support.sandbox import Sandbox

two_tiers = pytest.mark.parametrize("tier", [Tier.GVISOR_SYSTRAP, Tier.RUNC_SECCOMP])
PATIENCE_S = 60.0


@pytest.fixture
def watchdog(sandbox: Sandbox) -> Iterator[Watchdog]:
    yield Watchdog(sandbox.paths)
    assert containers.ours(sandbox.client) == []


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


async def test_it_goes_on_looking_while_the_daemon_is_away(tmp_path: Path) -> None:
    watchdog = Watchdog(SandboxPaths.under(tmp_path))
    with pytest.raises(DaemonError):
        watchdog.look()
    looking = asyncio.create_task(watchdog.run())
    done, _ = await asyncio.wait({looking}, timeout=1)
    assert not done
    looking.cancel()
