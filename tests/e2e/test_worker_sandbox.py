"""A worker whose gVisor broke after its offer was made: it refuses those leases until the offer is made anew."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from consumer.exceptions import ProviderRefused
from consumer.store import Store
from protocol.headers import RefusalCode
from protocol.sandboxes import SandboxTier
from provider.config import load_config
from provider.observing.operations import address_of
from provider.sandbox.daemon import Daemon
from provider.sandbox.paths import VARIABLE, SandboxPaths
from tests.support.anvil import ROOT
from tests.support.engine_slots import hold_engine_slots
from tests.support.live_market import ETHER, LiveMarket, WorkerProcess, ask, live_market
from tests.support.sandbox import worker_sandbox

COMMAND = [sys.executable, "-m", "clawmarket_cli", "provider", "offers"]


@pytest.fixture
def market(tmp_path: Path) -> Iterator[LiveMarket]:
    with live_market(tmp_path / "market") as running:
        yield replace(running, promised=SandboxTier.GVISOR_SYSTRAP)


@pytest.fixture
def without_gvisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sandbox of its own, whose gVisor starts nothing."""
    images = worker_sandbox().images
    folder = Path(tempfile.mkdtemp(prefix="claw-weak-"))
    folder.chmod(0o711)
    paths = SandboxPaths.under(folder)
    paths.runsc.parent.mkdir(parents=True)
    paths.images.symlink_to(images)
    paths.runsc.write_text("#!/bin/sh\nexit 1\n")
    paths.runsc.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(folder))
    yield
    Daemon(paths).stop()
    shutil.rmtree(folder)


def test_weaker_sandbox_than_promised__no_answer_until_it_is_offered_anew(
    market: LiveMarket, without_gvisor: None, tmp_path: Path
) -> None:
    enrolment = market.enrol(tmp_path / "provider")
    market.node.set_balance(enrolment.operator, ETHER)
    store = Store(tmp_path / "consumer.sqlite", market.domain)
    told = "promises the sandbox gvisor-systrap, here is only runc-seccomp"
    with hold_engine_slots(1), WorkerProcess(enrolment.config) as worker:
        endpoint = worker.wait_ready()
        assert httpx.get(f"{endpoint}/healthz").json()["sandbox"] == "runc-seccomp"
        assert httpx.get(f"{endpoint}/readyz").status_code == 503
        assert f"offer 1 version 1 {told}, so it is not served: mend the sandbox" in worker.output
        status = httpx.get(f"{address_of(load_config(enrolment.config).provider.data)}/status").json()
        assert [told in alert["what"] for alert in status["alerts"] if "offers price" in alert["do"]] == [True]
        old = market.open_lease(store, endpoint, enrolment)
        with pytest.raises(ProviderRefused, match=told) as refused:
            ask(market, store, *old)
        assert refused.value.code == RefusalCode.TERMS
        assert worker.stop() == 0

    prices = ("--price-in=0.01 USDC per 1K tokens", "--price-out=0.03 USDC per 1K tokens")
    files = (f"--owner={tmp_path / 'provider' / 'owner.json'}", f"--password-file={tmp_path / 'provider' / 'password'}")
    done = subprocess.run(
        [*COMMAND, f"--config={enrolment.config}", "price", "1", *prices, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "offer 1 is now version 2, in the sandbox runc-seccomp" in done.stdout, done

    with hold_engine_slots(1), WorkerProcess(enrolment.config) as worker:
        endpoint = worker.wait_ready()
        assert httpx.get(f"{endpoint}/readyz").status_code == 200
        assert told not in worker.output
        end = ask(market, store, *market.open_lease(store, endpoint, enrolment))
        assert end.receipt.message.final
        with pytest.raises(ProviderRefused, match=told):
            ask(market, store, replace(old[0], endpoint=endpoint), old[1])
        assert worker.stop() == 0
    store.close()
