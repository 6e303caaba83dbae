"""The tables against the contracts, on both databases; blocks replaced up to finality; one writer."""

from __future__ import annotations

import pytest

from indexer.config import IndexerConfig
from indexer.derive.handlers import RAW_ONLY, handled
from indexer.exceptions import FinalityBroken, WriterRunning
from indexer.session import Session, open_database
from indexer.store.shapes import shape_of
from indexer.store.tables import EVENTS, STATES
from indexer.verify.contracts import contract_differences
from indexer.verify.rebuild import differences, replay
from tests.indexer.conftest import CONFIRMATIONS, NewConfig
from tests.indexer.market import Market


def catch_up(config: IndexerConfig) -> None:
    with Session(config) as session:
        session.follower(lambda _: None).step()


def check(config: IndexerConfig, clean: IndexerConfig, market: Market) -> None:
    """The tables equal the contracts, a replay of their raw logs, and those of an indexer that starts now."""
    catch_up(clean)
    with Session(config) as session, Session(clean) as other:
        assert differences(session.database, other.database) == []
        with session.database.scratch() as rebuilt:
            assert replay(session.database, rebuilt, session.deployment, session.decoder) > 0
            assert differences(session.database, rebuilt) == []
        block = market.node.block_number()
        assert list(contract_differences(session.database, session.client, block)) == []


def test_events__of_every_contract__are_handled_or_known_to_be_raw_only(market: Market, new_config: NewConfig) -> None:
    with Session(new_config()) as session:
        assert handled() | RAW_ONLY == set(session.decoder)


def test_market_run__every_contract__tables_equal_contracts(market: Market, new_config: NewConfig) -> None:
    config = new_config()
    market.open()
    catch_up(config)
    market.trade()
    market.node.mine(CONFIRMATIONS)
    catch_up(config)
    check(config, new_config(), market)
    with Session(config) as session:
        filled = {
            shape_of(model).name
            for model in (*STATES, *EVENTS)
            if session.database.execute(f"SELECT count(*) FROM {shape_of(model).name}") != [(0,)]
        }
    assert {shape_of(model).name for model in (*STATES, *EVENTS)} - filled == {"mint", "unknown_event"}


@pytest.mark.parametrize("depth", range(1, CONFIRMATIONS))
def test_reorg__down_to_finality__is_undone(market: Market, new_config: NewConfig, depth: int) -> None:
    config = new_config()
    market.open()
    market.node.mine(CONFIRMATIONS)
    fork = CONFIRMATIONS - depth
    for amount in range(1, fork + 1):
        market.transfer(amount)
    snapshot = market.node.snapshot()
    for amount in range(1, depth + 1):
        market.transfer(100 + amount)
    catch_up(config)
    market.node.revert(snapshot)
    for amount in range(1, depth + 2):
        market.transfer(1_000 + amount, receiver=4)
    catch_up(config)
    check(config, new_config(), market)
    with Session(config) as session:
        assert session.database.execute("SELECT count(*) FROM raw_log WHERE orphaned") == [(depth,)]


def test_reorg__below_finality__stops_and_changes_nothing(market: Market, new_config: NewConfig) -> None:
    config = new_config()
    market.open()
    snapshot = market.node.snapshot()
    for amount in range(1, CONFIRMATIONS + 2):
        market.transfer(amount)
    catch_up(config)
    market.node.revert(snapshot)
    for amount in range(1, CONFIRMATIONS + 3):
        market.transfer(1_000 + amount)
    with Session(config) as session:
        before = session.database.execute("SELECT * FROM cursor")
        with pytest.raises(FinalityBroken, match="was final"):
            session.follower(lambda _: None).step()
        assert session.database.execute("SELECT * FROM cursor") == before


def test_node__behind_on_the_same_chain__is_no_reorg(market: Market, new_config: NewConfig) -> None:
    config = new_config()
    market.open()
    snapshot = market.node.snapshot()
    market.transfer(1)
    market.transfer(2)
    catch_up(config)
    market.node.revert(snapshot)
    with Session(config) as session:
        before = session.database.execute("SELECT * FROM cursor")
        session.follower(lambda _: None).step()
        assert session.database.execute("SELECT * FROM cursor") == before


def test_writers__two__second_is_refused(market: Market, new_config: NewConfig) -> None:
    config = new_config()
    with Session(config) as session:
        session.follower(lambda _: None)
        second = open_database(config)
        with pytest.raises(WriterRunning, match="another indexer writes"):
            second.lock()
        second.close()
    catch_up(config)
