"""Everything around the indexer that is measured: a chain full of transfers, Postgres, both programs as processes."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import psycopg

from protocol.chain.deployments import Deployment, Profile
from protocol.chain.rpc import RpcPool
from scripts.deployment import Settings, deploy, load_build, network_of
from scripts.deployment.signer import KeySigner
from scripts.postgres import postgres
from tests.support.anvil import ROOT, Anvil, dev_account

POLL_S = 0.1
"""The shortest that Ponder takes."""
FINALITY = 30
"""Blocks above the newest final one: what Ponder counts on a chain it does not know."""
EVENTS_PER_BLOCK, TRANSFERS = 100, 10
_SPENDERS, _RECEIVERS = 100, 5_000
_SPENDER_BASE, _RECEIVER_BASE = 0x200000, 0x100000
_WAIT_S = 600.0


@dataclass
class Stage:
    """The chain and its deployment file, and the database's address."""

    node: Anvil
    deployment: Deployment
    folder: Path
    database: str

    @property
    def token(self) -> str:
        return self.deployment.address("TestUSDC")

    def fill(self, events: int) -> None:
        """Transfers of TestUSDC, ten in a transaction, ten transactions in a block, between 5,100 accounts."""
        spenders = [f"0x{_SPENDER_BASE + number:040x}" for number in range(_SPENDERS)]
        code = "0x" + _spender(bytes.fromhex(self.token[2:])).hex()
        for spender in spenders:
            self.node.rpc("anvil_setCode", [spender, code])
            data = "0x40c10f19" + spender[2:].zfill(64) + f"{10**12:064x}"
            self.node.rpc("eth_sendTransaction", [{"from": dev_account(0).address, "to": self.token, "data": data}])
        self.node.automine(False)
        per_block = EVENTS_PER_BLOCK // TRANSFERS
        with RpcPool([self.node.url], self.node.chain_id) as rpc:
            for start in range(0, events // TRANSFERS, per_block):
                sent = [
                    {
                        "from": dev_account(number % per_block).address,
                        "to": spenders[number % _SPENDERS],
                        "data": f"0x{number * TRANSFERS:064x}{(number + 1) * TRANSFERS:064x}",
                        "gas": hex(1_000_000),
                    }
                    for number in range(start, start + per_block)
                ]
                rpc.batch([*(("eth_sendTransaction", [each]) for each in sent), ("anvil_mine", ["0x1"])])
        self.node.automine(True)
        self.node.mine(FINALITY + 1)

    def send_one(self, number: int) -> int:
        """One transfer in a block of its own, whose number is returned."""
        data = f"0x{number:064x}{number + 1:064x}"
        sent = {"from": dev_account(0).address, "to": f"0x{_SPENDER_BASE:040x}", "data": data, "gas": hex(200_000)}
        receipt = self.node.wait_receipt(self.node.rpc("eth_sendTransaction", [sent]))
        return int(receipt["blockNumber"], 16)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement, on a connection of its own."""
        with psycopg.connect(self.database) as connection:
            return connection.execute(statement.encode()).fetchall()


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A chain with the contracts, and an empty database."""
    with Anvil() as node, postgres() as database:
        with RpcPool([node.url], node.chain_id) as rpc:
            settings = Settings(folder=folder)
            deployed = deploy(rpc, KeySigner(dev_account(0)), load_build(), network_of(node.chain_id), settings)
        deployed = replace(deployed, profile=Profile("bench", confirmations=FINALITY + 1))
        deployed.save(folder)
        yield Stage(node, deployed, folder, database)


class Process:
    """A program with its output in a file; ended with this block."""

    def __init__(self, command: list[str], log: Path, folder: Path = ROOT, **environment: str) -> None:
        self._log = log
        self.started = time.monotonic()
        with log.open("wb") as output:
            self._running = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                cwd=folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.peak_mb = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._measure()
        self._running.terminate()
        try:
            self._running.wait(30)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def finish(self) -> float:
        """Seconds from start to a successful end."""
        while True:
            ended, status, used = os.wait4(self._running.pid, 0)
            if ended:
                break
        took = time.monotonic() - self.started
        self._running.returncode = os.waitstatus_to_exitcode(status)
        self.peak_mb = used.ru_maxrss / 1024
        if self._running.returncode:
            raise AssertionError(f"a measured program failed: {self.log[-2000:]}")
        return took

    def until(self, condition: Callable[[], object], *, every_s: float = 0.02) -> float:
        """Seconds from start until the condition holds."""
        while not condition():
            if self._running.poll() is not None or time.monotonic() - self.started > _WAIT_S:
                raise AssertionError(f"a measured program ended or hangs: {self.log[-2000:]}")
            time.sleep(every_s)
        return time.monotonic() - self.started

    def _measure(self) -> None:
        if self._running.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self._running.pid}/status").read_text())
            self.peak_mb = int(found[1]) / 1024 if found else 0.0


def indexer(stage: Stage, command: str, schema: str) -> Process:
    """`clawmarket indexer <command>`."""
    config = stage.folder / f"{schema}.toml"
    config.write_text(
        f'rpc = ["{stage.node.url}"]\ndeployment = "{stage.node.chain_id}.json"\n'
        f'database = "{stage.database}"\nschema = "{schema}"\npoll_s = {POLL_S}\n'
    )
    program = [sys.executable, "-m", "clawmarket_cli", "indexer", command, f"--config={config}"]
    return Process(program, stage.folder / f"{schema}-{command}.log")


@contextmanager
def ponder(stage: Stage, schema: str, *, is_limited: bool = True) -> Iterator[tuple[Process, str]]:
    """`ponder start`, and the address where it says whether it is ready."""
    folder = _ponder()
    limiter = folder / "node_modules" / "ponder" / "dist" / "esm" / "rpc" / "index.js"
    original = limiter.read_text()
    lifted = original
    for limit in ("INITIAL_MAX_RPS = 20;", "const MAX_RPS = 500;"):
        assert lifted.count(limit) == 1, "Ponder's limiter is not where it was"
        lifted = lifted.replace(limit, f"{limit.partition('=')[0]}= 1e6;")
    port = _free_port()
    environment = {
        "DATABASE_URL": stage.database,
        "CHAIN_ID": str(stage.node.chain_id),
        "RPC_URL": stage.node.url,
        "TOKEN": stage.token,
        "START_BLOCK": str(stage.deployment.block),
        "PONDER_TELEMETRY_DISABLED": "true",
    }
    command = ["node", "node_modules/ponder/dist/esm/bin/ponder.js", "start"]
    command += ["--schema", schema, "--port", str(port), "--hostname", "127.0.0.1"]
    try:
        if not is_limited:
            limiter.write_text(lifted)
        with Process(command, stage.folder / f"{schema}.log", folder, **environment) as process:
            yield process, f"http://127.0.0.1:{port}/ready"
    finally:
        limiter.write_text(original)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _ponder() -> Path:
    """Ponder and its project, installed from its lock the first time."""
    source, target = ROOT / "scripts" / "bench" / "ponder", ROOT / ".cache" / "ponder"
    shutil.copytree(source, target, dirs_exist_ok=True)
    lock, stamp = (source / "package-lock.json").read_text(), target / "stamp"
    if not stamp.exists() or stamp.read_text() != lock:
        print("installing Ponder into .cache/ponder, once", flush=True)
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(install, cwd=target, check=True)
        stamp.write_text(lock)
    return target


def _spender(token: bytes) -> bytes:
    """Code that sends one unit to a receiver chosen by hash, for each number from word 0 of its input to word 1."""
    return b"".join(
        (
            bytes.fromhex("63a9059cbb60e01b5f52"),  # the selector of transfer, at 0
            bytes.fromhex("6001602452"),  # the amount
            bytes.fromhex("5f355b"),  # the first number; the loop begins at byte 17
            bytes.fromhex("806080526020608020"),
            b"\x61" + _RECEIVERS.to_bytes(2, "big") + bytes.fromhex("9006"),
            b"\x62" + _RECEIVER_BASE.to_bytes(3, "big") + bytes.fromhex("01600452"),
            bytes.fromhex("602060a060445f5f73") + token + bytes.fromhex("5af150"),
            bytes.fromhex("600101806020351160115700"),
        )
    )
