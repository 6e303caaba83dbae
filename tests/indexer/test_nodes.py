"""Nodes that lag, lie or withhold, beside honest ones; a restarted chain; events nobody knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from indexer.exceptions import ForeignStore
from indexer.session import Session
from indexer.store import cursor
from protocol.chain.exceptions import RpcUnavailable, WrongChain
from tests.indexer.conftest import NewConfig
from tests.indexer.market import Market
from tests.indexer.test_ingest import catch_up, check
from tests.protocol.chain.hostile_node import Answer, Batch, HostileNode
from tests.support.anvil import Anvil

Change = Callable[[dict[str, Any], Any], Any]


@pytest.fixture
def relay(market: Market) -> Iterator[Callable[[Change], str]]:
    """Starts a node in front of the real one that changes answers; gives its address."""
    with ExitStack() as stack:

        def start(change: Change) -> str:
            server = stack.enter_context(HostileNode(market.node.chain_id))
            server.relay(market.node.url, change)
            return server.url

        yield start


def far_ahead(call: dict[str, Any], result: Any) -> Any:
    """Says that the chain is a thousand blocks longer than it is."""
    if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "latest":
        return result | {"number": hex(int(result["number"], 16) + 1_000), "hash": "0x" + "ee" * 32}
    return result


def invented_log(call: dict[str, Any], result: Any) -> Any:
    """Adds a transfer that never was."""
    if call["method"] == "eth_getLogs" and result:
        topics = [result[0]["topics"][0], "0x" + "00" * 12 + "aa" * 20, "0x" + "00" * 12 + "bb" * 20]
        return [*result, result[-1] | {"logIndex": "0xff", "topics": topics}]
    return result


def test_head__one_liar_among_three__does_not_move(
    market: Market, new_config: NewConfig, relay: Callable[[Change], str]
) -> None:
    market.open()
    config = new_config(relay(far_ahead), market.node.url, market.node.url)
    catch_up(config)
    check(config, new_config(), market)


def test_head__one_node_behind__is_outvoted(
    market: Market, new_config: NewConfig, relay: Callable[[Change], str]
) -> None:
    market.open()
    old = market.node.rpc("eth_getBlockByNumber", ["latest", False])
    market.transfer(1)
    market.transfer(2)
    lagging = relay(lambda call, result: old if call.get("params", [""])[:1] == ["latest"] else result)
    config = new_config(lagging, market.node.url, market.node.url)
    catch_up(config)
    check(config, new_config(), market)


def test_logs__one_node_invents_some__another_is_asked(
    market: Market, new_config: NewConfig, relay: Callable[[Change], str]
) -> None:
    market.open()
    config = new_config(relay(invented_log), market.node.url)
    catch_up(config)
    check(config, new_config(), market)


def test_logs__the_only_node_invents_some__nothing_is_written(
    market: Market, new_config: NewConfig, relay: Callable[[Change], str]
) -> None:
    market.open()
    config = new_config(relay(invented_log))
    with pytest.raises(RpcUnavailable, match="bloom filter"):
        catch_up(config)
    with Session(config) as session:
        assert session.database.execute("SELECT count(*) FROM raw_log") == [(0,)]


@pytest.mark.parametrize(
    ("code", "message"), [(-32602, "block range is too large"), (-32005, "query returned more than 10000 results")]
)
def test_logs__range_refused__is_halved_and_nothing_is_lost(
    market: Market, new_config: NewConfig, code: int, message: str
) -> None:
    market.open()
    asked: list[int] = []
    with HostileNode(market.node.chain_id) as server:
        server.relay(market.node.url, lambda _, result: result)
        relayed = server.answer

        def small_ranges(batch: Batch) -> Answer:
            status, body = relayed(batch)
            entries = json.loads(body)
            by_id = {call["id"]: call for call in batch}
            for entry in entries:
                call = by_id[entry["id"]]
                if call["method"] == "eth_getLogs":
                    asked.append(int(call["params"][0]["toBlock"], 16) - int(call["params"][0]["fromBlock"], 16) + 1)
                    if asked[-1] > 3:
                        entry.pop("result")
                        entry["error"] = {"code": code, "message": message}
            return status, json.dumps(entries).encode()

        server.answer = small_ranges
        config = new_config(server.url)
        catch_up(config)
        assert max(asked) > 3 >= min(asked)
        check(config, new_config(), market)


def test_chain__restarted__is_noticed_by_its_genesis(market: Market, new_config: NewConfig) -> None:
    config = new_config()
    market.open()
    catch_up(config)
    with Anvil(["--timestamp", "1"]) as other:
        renewed = config.model_copy(update={"rpc": [other.url]})
        with Session(renewed) as session, pytest.raises(WrongChain, match="genesis"):
            session.follower(lambda _: None)
    restarted = replace(market.deployment, genesis_hash=b"\x01" * 32)
    with Session(config) as session, pytest.raises(ForeignStore, match="restarted"):
        cursor.load(session.database, restarted)


def test_event__of_no_abi__is_kept_raw_and_counted(market: Market, new_config: NewConfig) -> None:
    market.open()
    # PUSH1 7, PUSH0, PUSH0, LOG1: an event of topic 7 at the token's address, whose code is put back afterwards.
    token = market.address("TestUSDC")
    code = market.node.rpc("eth_getCode", [token, "latest"])
    market.node.rpc("anvil_setCode", [token, "0x60075f5fa100"])
    for _ in range(2):
        sender = market.node.rpc("eth_accounts")[0]
        market.node.wait_receipt(market.node.rpc("eth_sendTransaction", [{"from": sender, "to": token}]))
    market.node.rpc("anvil_setCode", [token, code])
    config = new_config()
    catch_up(config)
    with Session(config) as session:
        assert session.database.execute("SELECT count(*) FROM unknown_event") == [(1,)]
    check(config, new_config(), market)
