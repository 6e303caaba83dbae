"""RPC endpoints that lie, break, are slow or down: a ChainError or the other endpoint, never a crash."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from protocol.chain.exceptions import ChainError, MalformedAnswer, RpcRejected, RpcUnavailable, WrongChain
from protocol.chain.rpc import RpcLimits, RpcPool
from tests.protocol.chain.hostile_node import GENESIS, Answer, Batch, HostileNode

QUICK = RpcLimits(connect_s=5, read_s=5, total_s=10, max_bytes=100_000, rounds=3, pause_s=0.01, longest_pause_s=0.02)


@pytest.fixture
def hostile() -> Iterator[HostileNode]:
    with HostileNode(eth_blockNumber="0x10") as node:
        yield node


@pytest.fixture
def other() -> Iterator[HostileNode]:
    with HostileNode(eth_blockNumber="0x20") as node:
        yield node


@pytest.fixture
def make_pool() -> Iterator[Callable[..., RpcPool]]:
    pools: list[RpcPool] = []

    def make(*urls: str, limits: RpcLimits = QUICK) -> RpcPool:
        pools.append(RpcPool(urls, 31337, bytes.fromhex(GENESIS[2:]), limits))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def text(content: str | bytes, status: int = 200) -> Callable[[Batch], Answer]:
    body = content if isinstance(content, bytes) else content.encode()
    return lambda _: (status, body)


def changed(change: Callable[[Batch], Any]) -> Callable[[HostileNode], Callable[[Batch], Answer]]:
    """An honest answer with something done to its entries."""

    def build(node: HostileNode) -> Callable[[Batch], Answer]:
        def answer(batch: Batch) -> Answer:
            entries = node.entries(batch)
            result = change(entries)
            return 200, json.dumps(entries if result is None else result).encode()

        return answer

    return build


MALFORMED: dict[str, Callable[[HostileNode], Callable[[Batch], Answer]]] = {
    "no JSON": lambda _: text("<html>welcome</html>"),
    "empty": lambda _: text(""),
    "not UTF-8": lambda _: text(b"\xff\xfe\x00"),
    "bare number": lambda _: text("7"),
    "null": lambda _: text("null"),
    "object": lambda _: text("{}"),
    "error for the batch": lambda _: text('{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no batches"}}'),
    "malformed error for the batch": lambda _: text('{"error":"no"}'),
    "deep nesting": lambda _: text("[" * 50_000),
    "enormous number": lambda _: text("9" * 50_000),
    "too large": lambda _: text("[" + " " * 200_000 + "]"),
    "page not found": lambda _: text("not here", 404),
    "unauthorised": lambda _: text("key?", 401),
    "too few": changed(lambda entries: entries[:-1]),
    "too many": changed(lambda entries: [*entries, entries[-1]]),
    "same id twice": changed(lambda entries: [*entries[:-1], entries[0]]),
    "id as text": changed(lambda entries: entries[-1].update(id=str(entries[-1]["id"]))),
    "id out of range": changed(lambda entries: entries[-1].update(id=99)),
    "id true": changed(lambda entries: entries[0].update(id=True)),
    "entry not an object": changed(lambda entries: [*entries[:-1], 5]),
    "neither result nor error": changed(lambda entries: entries[-1].pop("result") and None),
    "error as text": changed(lambda entries: entries[-1].update(error="boom")),
    "error code as text": changed(lambda entries: entries[-1].update(error={"code": "1", "message": "boom"})),
    "error message missing": changed(lambda entries: entries[-1].update(error={"code": 1})),
    "chain id not hexadecimal": changed(lambda entries: entries[0].update(result=31337)),
    "chain id too wide": changed(lambda entries: entries[0].update(result="0x" + "f" * 64)),
    "chain id refused": changed(lambda entries: entries[0].update(error={"code": -1, "message": "no"})),
    "genesis missing": changed(lambda entries: entries[1].update(result=None)),
    "genesis hash short": changed(lambda entries: entries[1].update(result={"hash": "0xab"})),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_request__malformed_answer__is_refused_at_once(
    hostile: HostileNode, make_pool: Callable[..., RpcPool], fault: str
) -> None:
    hostile.answer = MALFORMED[fault](hostile)
    pool = make_pool(hostile.url)
    with pytest.raises(MalformedAnswer):
        pool.request("eth_blockNumber")
    assert hostile.requests == 1, "a lie is not asked for again"
    hostile.answer = hostile.honest
    assert pool.request("eth_blockNumber") == "0x10"


@pytest.mark.parametrize("fault", MALFORMED)
def test_request__one_endpoint_lies__the_other_is_asked(
    hostile: HostileNode, other: HostileNode, make_pool: Callable[..., RpcPool], fault: str
) -> None:
    hostile.answer = MALFORMED[fault](hostile)
    assert make_pool(hostile.url, other.url).request("eth_blockNumber") == "0x20"


def test_request__answers_in_another_order__are_put_right(
    hostile: HostileNode, make_pool: Callable[..., RpcPool]
) -> None:
    hostile.results["eth_gasPrice"] = "0x1"
    hostile.answer = changed(lambda entries: list(reversed(entries)))(hostile)
    assert make_pool(hostile.url).batch([("eth_blockNumber", []), ("eth_gasPrice", [])]) == ["0x10", "0x1"]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_request__passing_status__is_tried_again(
    hostile: HostileNode, make_pool: Callable[..., RpcPool], status: int
) -> None:
    hostile.first(2, text("busy", status))
    assert make_pool(hostile.url).request("eth_blockNumber") == "0x10"
    assert hostile.requests == 3


def test_request__rate_limit_in_the_answer__is_tried_again(
    hostile: HostileNode, make_pool: Callable[..., RpcPool]
) -> None:
    limit = {"code": -32005, "message": "limit exceeded"}
    hostile.first(1, changed(lambda entries: entries[-1].update(error=limit))(hostile))
    assert make_pool(hostile.url).request("eth_blockNumber") == "0x10"


def test_request__too_many_results_with_the_code_of_quotas__is_not_repeated(
    hostile: HostileNode, make_pool: Callable[..., RpcPool]
) -> None:
    error = {"code": -32005, "message": "query returned more than 10000 results"}
    hostile.answer = changed(lambda entries: entries[-1].update(error=error))(hostile)
    with pytest.raises(RpcRejected, match="more than 10000 results"):
        make_pool(hostile.url).request("eth_blockNumber")
    assert hostile.requests == 1


def test_request__busy_for_ever__gives_up_after_its_rounds(
    hostile: HostileNode, make_pool: Callable[..., RpcPool]
) -> None:
    hostile.answer = text("busy", 503)
    with pytest.raises(RpcUnavailable, match="HTTP status 503"):
        make_pool(hostile.url).request("eth_blockNumber")
    assert hostile.requests == QUICK.rounds


def test_request__refused_call__is_the_nodes_error_and_not_repeated(
    hostile: HostileNode, make_pool: Callable[..., RpcPool]
) -> None:
    error = {"code": -32602, "message": "bad params", "data": "0x1234"}
    hostile.answer = changed(lambda entries: entries[-1].update(error=error))(hostile)
    pool = make_pool(hostile.url)
    with pytest.raises(RpcRejected, match="eth_blockNumber was refused: bad params") as caught:
        pool.request("eth_blockNumber")
    assert (caught.value.code, caught.value.data) == (-32602, "0x1234")
    assert hostile.requests == 1


def test_request__nobody_listens__says_what_to_check(make_pool: Callable[..., RpcPool]) -> None:
    pool = make_pool(f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(RpcUnavailable, match="check the network and the RPC addresses"):
        pool.request("eth_blockNumber")


def test_request__first_endpoint_down__the_second_answers_and_is_kept(
    hostile: HostileNode, make_pool: Callable[..., RpcPool]
) -> None:
    pool = make_pool(f"http://127.0.0.1:{closed_port()}", hostile.url)
    assert [pool.request("eth_blockNumber") for _ in range(3)] == ["0x10"] * 3
    assert hostile.requests == 3


def test_request__never_answers__times_out(make_pool: Callable[..., RpcPool]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        pool = make_pool(f"http://127.0.0.1:{listener.getsockname()[1]}", limits=RpcLimits(read_s=0.1, rounds=1))
        with pytest.raises(RpcUnavailable, match="ReadTimeout"):
            pool.request("eth_blockNumber")


def test_request__answer_drips__ends_at_the_total_time(hostile: HostileNode, make_pool: Callable[..., RpcPool]) -> None:
    def drip(batch: Batch) -> Answer:
        time.sleep(0.3)
        return hostile.honest(batch)

    hostile.answer = drip
    pool = make_pool(hostile.url, limits=RpcLimits(read_s=5, total_s=0.1, rounds=1))
    with pytest.raises(RpcUnavailable, match="no complete answer"):
        pool.request("eth_blockNumber")


def test_request__wrong_chain__names_both(hostile: HostileNode, make_pool: Callable[..., RpcPool]) -> None:
    hostile.results["eth_chainId"] = "0x1"
    with pytest.raises(WrongChain, match="serves chain 1, expected chain 31337"):
        make_pool(hostile.url).request("eth_blockNumber")


def test_request__chain_changes_midway__is_caught_in_that_answer(
    hostile: HostileNode, make_pool: Callable[..., RpcPool]
) -> None:
    pool = make_pool(hostile.url)
    assert pool.request("eth_blockNumber") == "0x10"
    hostile.results["eth_chainId"] = "0x1"
    with pytest.raises(WrongChain):
        pool.request("eth_blockNumber")


def test_request__another_genesis__is_refused(hostile: HostileNode, make_pool: Callable[..., RpcPool]) -> None:
    hostile.results["eth_getBlockByNumber"] = {"hash": "0x" + "cd" * 32}
    with pytest.raises(WrongChain, match="deploy again"):
        make_pool(hostile.url).request("eth_blockNumber")


def test_batch__more_than_one_request_holds__is_split(hostile: HostileNode, make_pool: Callable[..., RpcPool]) -> None:
    pool = make_pool(hostile.url, limits=RpcLimits(batch=10))
    assert pool.batch([("eth_blockNumber", [])] * 25) == ["0x10"] * 25
    assert hostile.requests == 3


def test_everywhere__asks_each_and_needs_one(
    hostile: HostileNode, other: HostileNode, make_pool: Callable[..., RpcPool]
) -> None:
    pool = make_pool(hostile.url, other.url, f"http://127.0.0.1:{closed_port()}")
    assert pool.everywhere([("eth_blockNumber", [])]) == [["0x10"], ["0x20"]]
    with pytest.raises(RpcUnavailable):
        make_pool(f"http://127.0.0.1:{closed_port()}").everywhere([("eth_blockNumber", [])])


def test_errors__never_show_keys_in_addresses(hostile: HostileNode, make_pool: Callable[..., RpcPool]) -> None:
    secret = "s3cr3t"
    host = f"127.0.0.1:{closed_port()}"
    with pytest.raises(RpcUnavailable) as caught:
        make_pool(f"http://user:{secret}@{host}/v2/{secret}?key={secret}").request("eth_blockNumber")
    assert host in str(caught.value)
    assert secret not in str(caught.value)
    hostile.answer = text("no")
    with pytest.raises(MalformedAnswer) as malformed:
        make_pool(f"{hostile.url}/v2/{secret}").request("eth_blockNumber")
    assert secret not in str(malformed.value)


@pytest.mark.parametrize(
    "url", ["", "ws://127.0.0.1:1", "127.0.0.1:8545", "http://", "http://h:99999", "http://[1", "file:///etc/passwd"]
)
def test_pool__bad_address__is_refused(make_pool: Callable[..., RpcPool], url: str) -> None:
    with pytest.raises(ChainError, match="use the form https://"):
        make_pool(url)


def test_pool__no_address__is_refused(make_pool: Callable[..., RpcPool]) -> None:
    with pytest.raises(ChainError, match="give at least one"):
        make_pool()
