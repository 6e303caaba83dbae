"""`clawmarket consumer` from deposit to withdrawal, against a worker of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol import keystore
from tests.support.anvil import ROOT
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.live_market import ETHER, PASSWORD, SCRYPT_N, LiveMarket, WorkerProcess, live_market, signer_of

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture
def run(market: LiveMarket, tmp_path: Path) -> Run:
    (tmp_path / "consumer.toml").write_text(
        f'rpc = ["{market.node.url}"]\ndeployment = "{market.deployment_file}"\ntokenizer = "{tiny_model()}"\n'
    )
    (tmp_path / "password").write_text(PASSWORD.reveal() + "\n")
    (tmp_path / "password").chmod(0o600)
    keystore.save(tmp_path / "owner.json", signer_of(3), PASSWORD, scrypt_n=SCRYPT_N)

    def call(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        common = [f"--config={tmp_path}/consumer.toml", f"--password-file={tmp_path}/password"]
        program = [sys.executable, str(ROOT / "clawmarket_cli.py"), "consumer", command, *arguments, *common]
        return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    return call


def test_from_deposit_to_withdrawal(market: LiveMarket, run: Run) -> None:
    enrolment = market.enrol(market.folder / "provider")
    market.node.set_balance(enrolment.operator, ETHER)
    market.call(3, "mint", "TestUSDC", "mint", signer_of(3).address, 20_000_000)

    def ok(command: str, *arguments: str) -> str:
        done = run(command, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    ok("deposit", "20 USDC")
    with hold_engine_slots(1), WorkerProcess(enrolment.config) as worker:
        endpoint = worker.wait_ready()
        offer = [f"--endpoint={endpoint}", f"--provider={enrolment.provider}", f"--offer={enrolment.offer_id}"]
        assert "tiny-random" in ok("open", *offer, "--amount=10 USDC", "--days=7")
        assert ok("ask", "hello", "--max-tokens=20", "--temperature=0")
        assert "owed 840 of 10000000" in ok("leases")
        wrong = run("open", *offer, "--amount=99 USDC")
        assert (wrong.returncode, "escrow: account too low" in wrong.stderr) == (1, True)
        lease_id = ok("leases").split()[0]
        ok("close", f"--lease={lease_id[:12]}")
        refused = run("ask", "hello", f"--lease={lease_id}")
        assert refused.returncode == 1
        assert "lease_ended" in refused.stderr
    early = run("release", f"--lease={lease_id}")
    assert (early.returncode, "leases: not closed" in early.stderr) == (1, True)
    market.node.time_travel(2 * 3_600)
    market.call(0, "release", "LeaseEscrow", "release", bytes.fromhex(lease_id[2:]))  # as its provider does
    ok("release", f"--lease={lease_id}")
    settled = market.client.lease(bytes.fromhex(lease_id[2:])).settled
    rest = 20_000_000 - settled
    assert market.client.account(signer_of(3).address, market.token) == rest
    ok("withdraw", f"{rest // 10**6}.{rest % 10**6:06d} USDC")
    assert market.client.get(market.client.reads.view("TestUSDC", "balanceOf", signer_of(3).address)) == rest


def test_wrong_password_is_a_clear_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong\n")
    done = run("deposit", "1 USDC")
    assert done.returncode == 1
    assert "password" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("amount", ["1.0000001 USDC", "1 XYZ", "-1 USDC", "one"])
def test_bad_amount_is_a_clear_error(run: Run, amount: str) -> None:
    done = run("deposit", "--", amount) if amount.startswith("-") else run("deposit", amount)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
