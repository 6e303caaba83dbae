"""A database that crashes or has no room, nodes that break off, a fork in the middle of a backfill: nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest

from indexer.config import IndexerConfig
from indexer.exceptions import EndpointsDisagree, StoreError
from indexer.session import open_database
from protocol.chain.exceptions import MalformedAnswer, RpcUnavailable
from tests.indexer.conftest import NewConfig
from tests.indexer.market import Market
from tests.indexer.running import running
from tests.indexer.test_ingest import catch_up, check
from tests.protocol.chain.hostile_node import Answer, Batch, HostileNode
from tests.support.anvil import wait_for

SEED = 11
LONG_S = 120.0
MOST_STARTS = 50


def file_of(folder: Path) -> Path:
    """The newest configuration's."""
    return max(folder.glob("t*.toml"), key=lambda path: path.stat().st_mtime)


def indexed(config: IndexerConfig) -> int:
    """The block, -1 while the database cannot say."""
    with suppress(StoreError):
        database = open_database(config)
        try:
            if database.has_tables():
                return int(next(iter(database.execute("SELECT block_number FROM cursor")), (-1,))[0])
        finally:
            database.close()
    return -1


def of_the_node(config: IndexerConfig, market: Market) -> IndexerConfig:
    """The same tables, filled by the market's own node."""
    return config.model_copy(update={"rpc": [market.node.url]})


@pytest.mark.parametrize("new_config", ["postgres"], indirect=True)
def test_database_crashes_under_load__the_writer_goes_on(market: Market, new_config: NewConfig, tmp_path: Path) -> None:
    config = new_config()
    log = tmp_path / "run.log"
    market.open()
    with running(file_of(tmp_path), log):
        for crash in range(3):
            market.transfer(crash + 1)
            wait_for(lambda: indexed(config) >= market.node.block_number(), timeout=LONG_S)
            kill_backend(config)
            market.transfer(crash + 100)
        wait_for(lambda: indexed(config) >= market.node.block_number(), timeout=LONG_S)
    assert log.read_text().count("waiting for the database") >= 3
    check(config, new_config(), market)


def kill_backend(config: IndexerConfig) -> None:
    """Postgres ends all of its connections then, and recovers from its log."""
    with psycopg.connect(config.database, autocommit=True) as connection:
        (mine,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> %s", [mine]
        ).fetchall()
    assert rows, "nobody is connected"
    os.kill(rows[0][0], signal.SIGKILL)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("new_config", ["sqlite"], indirect=True)
def test_disk_is_full__the_writer_waits_for_room_or_is_stopped(
    market: Market, new_config: NewConfig, tmp_path: Path
) -> None:
    clean = new_config()
    market.open()
    with small_disk(tmp_path / "small", "8m") as disk:
        file = tmp_path / "full.toml"
        lines = file_of(tmp_path).read_text().splitlines()
        there = f'database = "{disk}/t.sqlite"'
        file.write_text("\n".join(there if line.startswith("database") else line for line in lines))
        config = IndexerConfig.load(file)
        for log in (tmp_path / "stopped.log", tmp_path / "run.log"):
            with running(file, log):
                wait_for(lambda: indexed(config) >= market.node.block_number(), timeout=LONG_S)
                fill(disk / "ballast")
                for amount in range(1, 60):
                    market.transfer(amount)
                wait_for(partial(says, log, "waiting for the database"), timeout=LONG_S)
                assert "full" in log.read_text()
                if log.stem == "run":
                    (disk / "ballast").unlink()
                    wait_for(lambda: indexed(config) >= market.node.block_number(), timeout=LONG_S)
            (disk / "ballast").unlink(missing_ok=True)
        check(config, clean, market)


def says(log: Path, text: str) -> bool:
    return text in log.read_text()


def fill(ballast: Path) -> None:
    """Until nothing more has room beside it."""
    with suppress(OSError), ballast.open("wb", buffering=0) as filling:
        while True:
            filling.write(bytes(4096))


def test_nodes_that_break_off__nothing_is_lost(market: Market, new_config: NewConfig) -> None:
    """Every fifth answer of both is cut off, empty, an error, or lacks a part."""
    chance = random.Random(SEED)
    faults: list[str] = []
    market.open()
    for amount in range(1, 20):
        market.transfer(amount)
    with HostileNode(market.node.chain_id) as one, HostileNode(market.node.chain_id) as other:
        for server in (one, other):
            server.relay(market.node.url, lambda _, result: result)
            server.answer = breaking(server.answer, chance, faults)
        config = new_config(one.url, other.url)
        for _ in range(MOST_STARTS):
            with suppress(RpcUnavailable, MalformedAnswer, EndpointsDisagree):  # for which `run` waits
                catch_up(config)
                break
        else:
            pytest.fail("it never came to the end")
    assert len(faults) >= 5
    check(of_the_node(config, market), new_config(), market)


def breaking(answer: Callable[[Batch], Answer], chance: random.Random, faults: list[str]) -> Callable[[Batch], Answer]:
    def broken(batch: Batch) -> Answer:
        status, body = answer(batch)
        fault = chance.choice(["half", "empty", "502", "missing"]) if chance.random() < 0.2 else ""
        if fault:
            faults.append(fault)
        match fault:
            case "half":
                return status, body[: len(body) // 2]
            case "empty":
                return status, b""
            case "502":
                return 502, b"bad gateway"
            case "missing":
                return status, json.dumps(json.loads(body)[1:]).encode()
            case _:
                return status, body

    return broken


@pytest.mark.parametrize("depth", [1, 4])
def test_fork_during_backfill__ends_on_the_chain_that_is(market: Market, new_config: NewConfig, depth: int) -> None:
    market.open()
    market.node.mine(10)
    snapshot = market.node.snapshot()
    for amount in range(depth):
        market.transfer(amount + 1)
    forked: list[bool] = []
    with HostileNode(market.node.chain_id) as server:
        server.relay(market.node.url, lambda _, result: result)
        relayed = server.answer

        def forking(batch: Batch) -> Answer:
            if not forked and any(call["method"] == "eth_getLogs" for call in batch):
                forked.append(True)
                market.node.revert(snapshot)
                for amount in range(depth + 1):
                    market.transfer(amount + 50)
            return relayed(batch)

        server.answer = forking
        config = new_config(server.url)
        catch_up(config)
    assert forked
    check(of_the_node(config, market), new_config(), market)
