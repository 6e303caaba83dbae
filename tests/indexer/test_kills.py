"""SIGKILL at any call of the database: what is left is whole, and the next run ends with the same tables."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.config import IndexerConfig
from indexer.session import Session
from tests.indexer.conftest import CONFIRMATIONS, NewConfig
from tests.indexer.market import Market
from tests.indexer.test_ingest import catch_up, check
from tests.support.anvil import ROOT

POINTS = [("insert", 1), ("upsert", 1), ("upsert", 3), ("execute", 2), ("transaction", 2)]
SEED = 7
MOST_CALLS = {"insert": 12, "upsert": 20, "execute": 20}


def run_dying(config: IndexerConfig, file: Path, method: str, at: int) -> int:
    command = [sys.executable, "-m", "tests.indexer.dying_indexer", str(file), method, str(at)]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode


@pytest.mark.parametrize("count", [15, pytest.param(200, marks=pytest.mark.soak)])
def test_kill__enumerated_and_random_points__ends_with_the_same_tables(
    market: Market, new_config: NewConfig, tmp_path: Path, count: int
) -> None:
    config = new_config()
    file = max(tmp_path.glob("t*.toml"), key=lambda path: path.stat().st_mtime)
    chance = random.Random(SEED)
    chosen = [(method, chance.randint(1, MOST_CALLS[method])) for method in chance.choices(list(MOST_CALLS), k=count)]
    market.open()
    market.node.mine(CONFIRMATIONS)
    killed = 0
    for number, (method, at) in enumerate([*POINTS, *chosen]):
        # Something to write, final and not, and every second time a replaced block to undo.
        market.transfer(number + 1)
        market.transfer(number + 100)
        if number % 2:
            snapshot = market.node.snapshot()
            market.transfer(number + 500)
            catch_up(config)
            market.node.revert(snapshot)
            market.transfer(number + 700)
            market.transfer(number + 800)
        killed += run_dying(config, file, method, at) == -signal.SIGKILL
    assert killed >= len(POINTS)
    catch_up(config)
    check(config, new_config(), market)
    with Session(config) as session:
        assert session.database.execute("SELECT count(*) FROM cursor") == [(1,)]
