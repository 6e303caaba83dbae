"""`clawmarket indexer serve` as a process."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from indexer.config import IndexerConfig
from tests.indexer.market import Market
from tests.indexer.test_ingest import catch_up
from tests.support.anvil import ROOT

ANSWER_S = 60.0


@dataclass
class Served:
    """A running API; `client` has its address as base."""

    market: Market
    config: IndexerConfig
    client: httpx.Client

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def catch_up(self) -> int:
        """Index up to the head, which the API shows when this returns."""
        catch_up(self.config)
        head = self.market.node.rpc("eth_getBlockByNumber", ["latest", False])
        deadline = time.monotonic() + ANSWER_S
        # Answers are kept until the reader hears of the commit.
        while self.client.get("/v1/fees").json().get("block", {}).get("hash") != head["hash"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return int(head["number"], 16)


@contextmanager
def serving(folder: Path, market: Market, database: str, api: str = "") -> Iterator[Served]:
    """The API over a database of the market, which need not be filled yet; `api` are lines of its settings."""
    path = folder / "indexer.toml"
    schema = re.sub("[^a-z0-9]", "_", f"s_{folder.name}")
    path.write_text(
        f'rpc = ["{market.node.url}"]\ndeployment = "{market.file}"\ndatabase = "{database}"\nschema = "{schema}"\n'
        f"[api]\nport = 0\n{api}\n"
    )
    config = IndexerConfig.load(path)
    command = [sys.executable, "-m", "clawmarket_cli", "indexer", "serve", "--config", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on "), line
            with httpx.Client(base_url=line.removeprefix("listening on ").strip(), timeout=ANSWER_S) as client:
                yield Served(market, config, client)
        finally:
            process.terminate()
            assert process.wait(ANSWER_S) in (0, -15)
