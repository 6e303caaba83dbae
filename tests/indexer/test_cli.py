"""What the commands say when something is wrong, and the codes they end with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from indexer.config import IndexerConfig
from indexer.session import Session, open_database
from tests.indexer.conftest import CONFIRMATIONS, NewConfig
from tests.indexer.market import Market
from tests.indexer.running import command
from tests.indexer.test_faults import file_of
from tests.indexer.test_ingest import catch_up
from tests.support.anvil import ROOT, Anvil

on_sqlite = pytest.mark.parametrize("new_config", ["sqlite"], indirect=True)


def run(name: str, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command(name, file), *options], cwd=ROOT, capture_output=True, text=True, check=False)


def test_backfill_status_verify_reset(market: Market, new_config: NewConfig, tmp_path: Path) -> None:
    new_config()
    file = file_of(tmp_path)
    empty = run("status", file)
    assert (empty.returncode, "run `clawmarket indexer backfill` first" in empty.stderr) == (1, True)
    market.open()
    market.trade()
    market.node.mine(10)
    assert run("backfill", file).returncode == 0
    assert f"indexed     block {market.node.block_number() - CONFIRMATIONS + 1}," in run("status", file).stdout
    verified = run("verify", file)
    assert (verified.returncode, "the tables are what the chain says" in verified.stdout) == (0, True)
    assert run("verify", file, "--reputation").returncode == 0
    assert run("reset", file, "--yes").returncode == 0
    assert run("status", file).returncode == 1


@on_sqlite
def test_another_writer__3(market: Market, new_config: NewConfig, tmp_path: Path) -> None:
    config = new_config()
    database = open_database(config)
    try:
        database.lock()
        found = run("backfill", file_of(tmp_path))
    finally:
        database.close()
    assert (found.returncode, "stop it first" in found.stderr) == (3, True)


@on_sqlite
def test_restarted_chain__4(market: Market, new_config: NewConfig, tmp_path: Path) -> None:
    config = new_config()
    catch_up(config)
    file = file_of(tmp_path)
    with Session(config) as session:
        session.database.execute("UPDATE cursor SET genesis_hash = ?", [b"\x01" * 32])
    found = run("backfill", file)
    assert (found.returncode, "clawmarket indexer reset" in found.stderr) == (4, True)


@on_sqlite
def test_redeployment__4__and_a_schema_of_its_own_goes_on(
    market: Market, new_config: NewConfig, tmp_path: Path
) -> None:
    config = new_config()
    market.open()
    catch_up(config)
    file = file_of(tmp_path)
    with Session(config) as session:
        session.database.execute("UPDATE cursor SET deployment = ?", [b"\x01" * 32])
    found = run("backfill", file)
    assert (found.returncode, "another deployment" in found.stderr) == (4, True)
    new_config()
    assert run("backfill", file_of(tmp_path)).returncode == 0


@on_sqlite
def test_replaced_final_block__5(market: Market, new_config: NewConfig, tmp_path: Path) -> None:
    config = new_config()
    snapshot = market.node.snapshot()
    market.open()
    market.node.mine(10)
    catch_up(config)
    market.node.revert(snapshot)
    market.node.mine(60)
    found = run("backfill", file_of(tmp_path))
    assert (found.returncode, "clawmarket indexer reset" in found.stderr) == (5, True)


@on_sqlite
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE account SET balance = fees FROM (SELECT settled AS fees FROM lease LIMIT 1) AS other",
        "DELETE FROM settlement",
        "UPDATE offer SET version = version + 1",
    ],
)
def test_wrong_tables__6(market: Market, new_config: NewConfig, tmp_path: Path, change: str) -> None:
    config = new_config()
    market.open()
    market.settle(market.open_lease(), 300_000)
    catch_up(config)
    file = file_of(tmp_path)
    assert run("verify", file).returncode == 0
    with Session(config) as session:
        session.database.execute(change)
    found = run("verify", file)
    assert (found.returncode, "differs: " in found.stderr) == (6, True), found.stderr


@on_sqlite
def test_node_away_and_wrong_settings__1(new_config: NewConfig, tmp_path: Path) -> None:
    with Anvil() as gone:
        away = gone.url
    new_config(away)
    file = file_of(tmp_path)
    found = run("backfill", file)
    assert found.returncode == 1
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr
    file.write_text(file.read_text() + "poll = 1\n")
    wrong = run("backfill", file)
    assert (wrong.returncode, "poll" in wrong.stderr) == (1, True)
    with pytest.raises(Exception, match="poll"):
        IndexerConfig.load(file)
