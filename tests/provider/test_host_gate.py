"""The gate on this machine: a real busy process shuts it and its end opens it; draining; what sensors make of text."""

import asyncio
import contextlib
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import psutil
import pytest

from protocol.headers import RefusalCode
from provider.exceptions import ConfigError, Refusal
from provider.host import Decision, Gate, HostLimits, Readings, Schedule, Sensors
from provider.host.cores import keep_to_cores
from provider.host.sensors import Gpu, _session_idle, parse_gpus
from tests.support.waiting import until

BURN = "while True: pass"


@contextlib.contextmanager
def burning(*, as_child: bool) -> Iterator[int]:
    """A process that keeps a core busy, as the worker's child or as somebody else's process."""
    if as_child:
        child = subprocess.Popen([sys.executable, "-c", BURN])
        try:
            yield child.pid
        finally:
            child.kill()
            child.wait()
        return
    # its parent ends at once, so that it is nobody's child here; a pipe it inherited would keep us waiting for its end
    start = f"import subprocess as s, sys; print(s.Popen([sys.executable, '-c', {BURN!r}], stdout=-3, stderr=-3).pid)"
    pid = int(subprocess.run([sys.executable, "-c", start], capture_output=True, check=True, text=True).stdout)
    try:
        yield pid
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            burner = psutil.Process(pid)
            burner.kill()
            burner.wait(10)


def refusal_of(gate: Gate) -> Refusal | None:
    try:
        gate.check_open()
    except Refusal as refusal:
        return refusal
    return None


class Fixed:
    """Readings that a test sets."""

    def __init__(self, **readings: Any) -> None:
        self.readings = readings

    def read(self) -> Readings:
        return Readings(at=time.monotonic(), **self.readings)


@pytest.mark.slow
async def test_somebody_elses_work_shuts_the_gate_and_its_end_opens_it() -> None:
    """Whatever else runs on this machine counts as ours, so that only the one busy process decides."""
    strangers: set[int] = set()
    sensors = Sensors(engines=lambda: set(psutil.pids()) - strangers)
    gate = Gate(HostLimits(max_other_cpu_percent=8, settle_s=0.0), sensors, period_s=0.5)
    watching = asyncio.create_task(gate.run())
    try:
        await until(lambda: gate.readings and gate.readings.other_cpu_percent is not None and gate.decision.is_open, 60)
        with burning(as_child=False) as pid:
            strangers.add(pid)
            await until(lambda: refusal_of(gate) is not None, 60)
            refusal = refusal_of(gate)
            assert refusal is not None
            assert (refusal.code, refusal.status) == (RefusalCode.BUSY, 503)
            assert refusal.details["retry_after_s"] >= 60
            assert "the owner's programs use the processor" in str(refusal)
        await until(lambda: refusal_of(gate) is None, 60)
    finally:
        watching.cancel()


@pytest.mark.parametrize("as_child", [True, False])
def test_work_of_own_processes_is_told_from_that_of_others(as_child: bool) -> None:
    """In seconds of processor time, which no other load on this machine changes."""
    sensors = Sensors()
    sensors._own_cpu()
    with burning(as_child=as_child) as pid:
        burner = psutil.Process(pid)
        while sum(burner.cpu_times()[:2]) < 1.0:
            time.sleep(0.05)
        own = sensors._own_cpu()
    assert (own >= 0.9) == as_child
    time.sleep(0.1)
    assert 0 <= sensors._own_cpu() < 0.9, "what an ended child used is not counted twice"


async def test_pause_keeps_the_schedule_and_says_when_it_opens() -> None:
    noon = datetime(2026, 3, 4, 12, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    limits = HostLimits(schedule=Schedule.parse(["daily 19:00-07:00"]))
    gate = Gate(limits, Fixed(), local_now=lambda: noon, period_s=0.01)
    await gate.start()
    refusal = refusal_of(gate)
    assert refusal is not None
    assert refusal.details["retry_after_s"] == 7 * 3600
    assert "schedule" in str(refusal)


async def test_failing_sensor_keeps_what_was_decided(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Fixed):
        def read(self) -> Readings:
            if not self.readings:
                raise RuntimeError("what it said")
            return super().read()

    sensors = Failing(temperature_c=90.0)
    gate = Gate(HostLimits(max_temperature_c=80, settle_s=0), sensors, period_s=0.01)
    watching = asyncio.create_task(gate.run())
    await until(lambda: refusal_of(gate) is not None)
    sensors.readings = {}
    await until(lambda: "could not be read" in caplog.text)
    assert refusal_of(gate) is not None
    assert "what it said" not in caplog.text
    sensors.readings = {"temperature_c": 50.0}
    await until(lambda: refusal_of(gate) is None)
    watching.cancel()


async def test_limits_that_cannot_be_watched_are_told(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(HostLimits(max_power_w=100), Fixed(), period_s=0.01)
    await gate.start()
    assert "host.max_power_w cannot be watched" in caplog.text
    assert refusal_of(gate) is None


async def test_reading_never_blocks_the_loop() -> None:
    class Slow(Fixed):
        def read(self) -> Readings:
            time.sleep(0.5)
            return super().read()

    gate = Gate(HostLimits(), Slow(), period_s=0.01)
    sampling = asyncio.create_task(gate.sample())
    turns = 0
    while not sampling.done():
        turns += 1
        await asyncio.sleep(0.01)
    assert turns > 5


async def test_draining_refuses_new_requests_and_waits_for_the_running() -> None:
    gate = Gate(HostLimits(), Fixed())
    running = [1, 2]
    draining = asyncio.create_task(gate.drain(lambda: len(running), 60))
    await until(lambda: gate.is_draining)
    refusal = refusal_of(gate)
    assert refusal is not None
    assert (refusal.status, "stopping" in str(refusal)) == (503, True)
    await asyncio.sleep(0.2)
    assert not draining.done()
    running.clear()
    assert await draining == 0


async def test_draining_ends_after_its_bound() -> None:
    gate = Gate(HostLimits(), Fixed())
    assert await gate.drain(lambda: 1, 0.1) == 1
    assert refusal_of(gate) is not None


def test_readings_of_this_machine_are_what_they_claim() -> None:
    sensors = Sensors()
    first = sensors.read()
    time.sleep(0.1)
    second = sensors.read()
    assert first.other_cpu_percent is None
    assert second.other_cpu_percent is not None
    assert 0 <= second.other_cpu_percent <= 100
    assert second.free_memory is not None
    assert 0 < second.free_memory <= psutil.virtual_memory().total
    assert second.user_idle_s is None or second.user_idle_s >= 0
    assert second.at > first.at


def test_what_nvidias_tool_prints() -> None:
    text = "22528, 41, 18.52\n1024, [N/A], [Not Supported]\n\ngarbage\n"
    assert parse_gpus(text) == [Gpu(22528 * 2**20, 41.0, 18.52), Gpu(1024 * 2**20, None, None)]
    assert parse_gpus("") == []


@pytest.mark.parametrize(
    ("shown", "idle"),
    [
        ("Type=wayland\nState=active\nIdleHint=no\nIdleSinceHint=0\n", 0.0),
        ("Type=x11\nState=online\nIdleHint=yes\nIdleSinceHint=940000000\n", 60.0),
        ("Type=x11\nState=closing\nIdleHint=no\n", math.inf),
        ("Type=tty\nState=active\nIdleHint=no\n", math.inf),
        ("", math.inf),
    ],
)
def test_what_logind_says_of_a_session(shown: str, idle: float) -> None:
    assert _session_idle(shown, 1_000.0) == idle


def test_worker_and_its_processes_keep_to_their_cores() -> None:
    show = "import os; from provider.host.cores import keep_to_cores; keep_to_cores(1); "
    count = "import os; print(len(os.sched_getaffinity(0)))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {count!r}])"
    done = subprocess.run([sys.executable, "-c", show + child], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    with pytest.raises(ConfigError, match=r"host\.cores: there are"):
        keep_to_cores(10_000)


def test_decision_without_limits_is_open() -> None:
    gate = Gate(HostLimits(), Fixed(on_battery=False))
    assert gate.decision == Decision(is_open=True)
