"""A job of a worker makes processes without end: the owner is told in `status` and `/metrics`, and the job is ended."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from provider.config import load_config
from provider.observing.operations import address_of
from provider.sandbox import containers, processes
from provider.sandbox.daemon import Daemon
from provider.sandbox.image.build import load
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.image.interpreter import program
from provider.sandbox.image.known import current
from provider.sandbox.policy import Limits
from provider.sandbox.tiers import Tier
from tests.support.engine_slots import hold_engine_slots
from tests.support.live_market import ETHER, LiveMarket, WorkerProcess, live_market
from tests.support.sandbox import worker_sandbox

FORKS = "import os, time\nwhile True:\n try: os.fork()\n except OSError: time.sleep(0.1)"


@pytest.fixture
def market(tmp_path: Path) -> Iterator[LiveMarket]:
    with live_market(tmp_path / "market") as running:
        yield running


def test_job_that_forks_without_end__is_ended_and_told(
    market: LiveMarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolment = market.enrol(tmp_path / "provider")
    market.node.set_balance(enrolment.operator, ETHER)
    paths = worker_sandbox()
    with hold_engine_slots(1), WorkerProcess(enrolment.config) as worker:
        worker.wait_ready()
        operations = address_of(load_config(enrolment.config).provider.data)
        client = Daemon(paths).client()
        image = current(paths, ENGINE)
        load(client, image)
        owner = processes.identity(worker.process.pid)
        monkeypatch.setattr(processes, "identity", lambda: owner)  # it is the worker's job
        command = [str(program()), "-S", "-c", FORKS]
        job = containers.Job("job", image.image_id, command, Limits(memory=256 << 20, pids=32, tmp=1 << 20))
        with containers.running(client, Tier.RUNC_SECCOMP, job) as running:
            told = f"{containers.name_of(running)} makes more processes than it may"
            running.wait(timeout=60)
            running.reload()
            assert running.attrs["State"]["ExitCode"] == 137
        client.close()
        alerts = httpx.get(f"{operations}/status").json()["alerts"]
        assert [alert["what"].startswith(told) for alert in alerts if "processes" in alert["what"]] == [True]
        line = 'clawmarket_sandbox_anomalies_total{kind="processes",role="job"} 1.0'
        assert line in httpx.get(f"{operations}/metrics").text.splitlines()
        assert told in worker.output
        assert worker.stop() == 0
