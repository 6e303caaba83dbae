"""The writer's figures, scraped from the running command."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.indexer.conftest import NewConfig
from tests.indexer.market import Market
from tests.support.anvil import ROOT

WAIT_S = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def test_metrics__of_the_running_writer__tell_lag_reorgs_and_rpc_errors(
    market: Market, new_config: NewConfig, tmp_path: Path
) -> None:
    port = free_port()
    new_config("http://127.0.0.1:1", market.node.url, market.node.url)
    (file,) = tmp_path.glob("t*.toml")
    file.write_text(f"{file.read_text()}metrics_port = {port}\n")
    market.open()
    snapshot = market.node.snapshot()
    market.transfer(1)
    market.transfer(2)

    def figures() -> dict[str, float]:
        try:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.TransportError:
            return {}
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    command = [sys.executable, "-m", "clawmarket_cli", "indexer", "run", "--config", str(file)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            head = market.node.block_number()
            until(lambda: figures().get("clawmarket_indexer_block") == head)
            found = figures()
            assert found["clawmarket_indexer_lag_blocks"] == 0
            assert found["clawmarket_indexer_logs_total"] > 0
            assert found["clawmarket_indexer_reorgs_total"] == 0
            assert found['clawmarket_indexer_rpc_errors_total{endpoint="0"}'] > 0
            assert found['clawmarket_indexer_rpc_errors_total{endpoint="1"}'] == 0
            market.node.revert(snapshot)
            for amount in (3, 4, 5):
                market.transfer(amount)
            until(lambda: figures().get("clawmarket_indexer_reorgs_total") == 1)
        finally:
            process.terminate()
            process.wait()
