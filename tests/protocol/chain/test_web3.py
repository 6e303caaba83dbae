"""Web3 on our provider: it reads what is there, and a node that lies to it meets the checks that the client has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import ProviderConnectionError

from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ChainError, MalformedAnswer, RpcRejected, RpcUnavailable, WrongChain
from protocol.chain.rpc import RpcLimits, RpcPool
from tests.protocol.chain.hostile_node import GENESIS, Answer, Batch, HostileNode
from tests.protocol.chain.probe import compiled
from tests.protocol.chain.test_client import BAD, BLOCK, LOG, RECEIPT, transact
from tests.protocol.chain.test_rpc import QUICK, closed_port, text
from tests.support.anvil import Anvil, dev_account

ADDRESS = Web3.to_checksum_address("0x" + "44" * 20)
OFFCHAIN_LOOKUP = "0x556f1830" + "00" * 160


@pytest.fixture
def hostile() -> Iterator[HostileNode]:
    with HostileNode() as node:
        yield node


@pytest.fixture
def make_w3() -> Iterator[Callable[..., Web3]]:
    pools: list[RpcPool] = []

    def make(*urls: str, limits: RpcLimits = QUICK) -> Web3:
        pools.append(RpcPool(urls, 31337, bytes.fromhex(GENESIS[2:]), limits))
        return Web3(pools[-1], middleware=[])

    yield make
    for pool in pools:
        pool.close()


def test_w3__reads_what_the_client_reads(node: Anvil, client: ChainClient) -> None:
    tx_hash = transact(node, client, "bump", 950, "hi")
    head = client.head()
    block = client.w3.eth.get_block(head.number)
    assert (block["number"], block["hash"], block["timestamp"]) == (head.number, head.hash, head.timestamp)
    probe = client.w3.eth.contract(Web3.to_checksum_address(client.deployment.address("Probe")), abi=compiled()[1])
    assert probe.functions.counts(950).call() == client.get(client.reads.view("Probe", "counts", 950)) == 1
    receipt = client.receipt(tx_hash)
    assert receipt is not None
    assert client.w3.eth.get_transaction_receipt(HexBytes(tx_hash))["gasUsed"] == receipt.gas_used


def test_w3__decodes_events_to_the_same_values(node: Anvil, client: ChainClient) -> None:
    tx_hash = transact(node, client, "bump", 951, "same")
    receipt = client.receipt(tx_hash)
    assert receipt is not None
    (ours,) = client.decoder.decode_all(receipt.logs)
    probe = client.w3.eth.contract(Web3.to_checksum_address(client.deployment.address("Probe")), abi=compiled()[1])
    (theirs,) = probe.events.Bumped().process_receipt(client.w3.eth.get_transaction_receipt(HexBytes(tx_hash)))
    assert json.loads(Web3.to_json(theirs["args"])) == json.loads(Web3.to_json(dict(ours.args)))
    assert (theirs["event"], theirs["logIndex"], theirs["blockHash"]) == (ours.name, ours.log_index, ours.block_hash)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("bump", (7, "note")),
        ("close", ()),
        ("sum", ([("0x" + "11" * 20, 5), ("0x" + "22" * 20, 2**96 - 1)], True)),
        ("sum", ([], False)),
    ],
)
def test_calldata__is_what_web3s_contract_encodes(client: ChainClient, function: str, args: tuple[Any, ...]) -> None:
    contract = client.w3.eth.contract(abi=compiled()[1])
    assert "0x" + client.encode("Probe", function, *args).hex() == contract.encode_abi(function, args=args)


def test_w3__batch__is_one_http_request(client: ChainClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.head()
    posted: list[bytes] = []
    original = client.rpc._exchange

    def counting(endpoint: Any, body: bytes) -> Any:
        posted.append(body)
        return original(endpoint, body)

    monkeypatch.setattr(client.rpc, "_exchange", counting)
    with client.w3.batch_requests() as batch:
        batch.add(client.w3.eth.get_block("latest"))
        batch.add(client.w3.eth.get_balance(Web3.to_checksum_address(dev_account(1).address)))
        results: list[Any] = list(batch.execute())
    assert [results[0]["number"], results[1]] == [client.head().number, client.balance(dev_account(1).address)]
    assert len(json.loads(posted[0])) == 3, "the two calls and the chain id"


CALLS: dict[str, tuple[Any, Callable[[Web3], Any]]] = {
    "eth_blockNumber": ("0x5", lambda w3: w3.eth.block_number),
    "eth_call": ("0x", lambda w3: w3.eth.call({"to": ADDRESS})),
    "eth_estimateGas": ("0x5", lambda w3: w3.eth.estimate_gas({"to": ADDRESS, "from": ADDRESS})),
    "eth_gasPrice": ("0x5", lambda w3: w3.eth.gas_price),
    "eth_getBalance": ("0x5", lambda w3: w3.eth.get_balance(ADDRESS)),
    "eth_getBlockByHash": (BLOCK, lambda w3: w3.eth.get_block(HexBytes(b"\x01" * 32))),
    "eth_getBlockByNumber": (BLOCK, lambda w3: w3.eth.get_block(5)),
    "eth_getCode": ("0x", lambda w3: w3.eth.get_code(ADDRESS)),
    "eth_getLogs": ([LOG], lambda w3: w3.eth.get_logs({"address": ADDRESS})),
    "eth_getStorageAt": ("0x" + "01" * 32, lambda w3: w3.eth.get_storage_at(ADDRESS, 0)),
    "eth_getTransactionCount": ("0x5", lambda w3: w3.eth.get_transaction_count(ADDRESS)),
    "eth_getTransactionReceipt": (RECEIPT, lambda w3: w3.eth.get_transaction_receipt(HexBytes(b"\x03" * 32))),
    "eth_maxPriorityFeePerGas": ("0x5", lambda w3: w3.eth.max_priority_fee),
    "eth_sendRawTransaction": ("0x" + "03" * 32, lambda w3: w3.eth.send_raw_transaction(b"\x01")),
}
NULL_IS_HONEST = {"eth_getBlockByHash", "eth_getBlockByNumber", "eth_getTransactionReceipt"}


@pytest.mark.parametrize("method", CALLS)
def test_w3__answer_of_a_wrong_type__is_malformed(
    hostile: HostileNode, make_w3: Callable[..., Web3], method: str
) -> None:
    good, call = CALLS[method]
    w3 = make_w3(hostile.url)
    hostile.results[method] = good
    call(w3)
    for bad in [*BAD, "0x" + "f" * 65, {"hash": 5}, [LOG, 5]]:
        if bad == good or (bad is None and method in NULL_IS_HONEST) or (bad == [] and method == "eth_getLogs"):
            continue
        hostile.results[method] = bad
        with pytest.raises((MalformedAnswer, WrongChain)):
            call(w3)


def test_w3__too_large_an_answer__is_malformed(hostile: HostileNode, make_w3: Callable[..., Web3]) -> None:
    hostile.answer = text("[" + " " * 200_000 + "]")
    with pytest.raises(MalformedAnswer, match="more than 100000 bytes"):
        make_w3(hostile.url).eth.get_balance(ADDRESS)


@pytest.mark.parametrize("results", [{"eth_chainId": "0x1"}, {"eth_getBlockByNumber": {"hash": "0x" + "cd" * 32}}])
def test_w3__wrong_chain__is_refused(
    hostile: HostileNode, make_w3: Callable[..., Web3], results: dict[str, Any]
) -> None:
    hostile.results |= {"eth_getBalance": "0x1", **results}
    w3 = make_w3(hostile.url)
    with pytest.raises(WrongChain):
        w3.eth.get_balance(ADDRESS)
    assert not w3.is_connected()


def test_w3__first_endpoint_down__the_second_answers(hostile: HostileNode, make_w3: Callable[..., Web3]) -> None:
    hostile.results["eth_getBalance"] = "0x7"
    w3 = make_w3(f"http://127.0.0.1:{closed_port()}", hostile.url)
    assert w3.is_connected()
    assert w3.eth.get_balance(ADDRESS) == 7


def test_w3__nobody_answers__is_unavailable_and_shows_no_key(make_w3: Callable[..., Web3]) -> None:
    secret = "s3cr3t"
    w3 = make_w3(f"http://user:{secret}@127.0.0.1:{closed_port()}/v2/{secret}?key={secret}")
    with pytest.raises(RpcUnavailable) as caught:
        w3.eth.get_balance(ADDRESS)
    assert not w3.is_connected()
    with pytest.raises(ProviderConnectionError) as shown:
        w3.is_connected(show_traceback=True)
    assert secret not in f"{caught.value} {shown.value} {w3.provider}"


def refusal(error: dict[str, Any]) -> Callable[[HostileNode], Callable[[Batch], Answer]]:
    def build(node: HostileNode) -> Callable[[Batch], Answer]:
        def answer(batch: Batch) -> Answer:
            entries = node.entries(batch)
            entries[-1] = {"jsonrpc": "2.0", "id": entries[-1]["id"], "error": error}
            return 200, json.dumps(entries).encode()

        return answer

    return build


def test_w3__refused_call__is_rejected_and_no_address_of_the_answer_is_visited(
    hostile: HostileNode, make_w3: Callable[..., Web3]
) -> None:
    hostile.answer = refusal({"code": 3, "message": "execution reverted", "data": OFFCHAIN_LOOKUP})(hostile)
    with pytest.raises(RpcRejected) as caught:
        make_w3(hostile.url).eth.call({"to": ADDRESS})
    assert caught.value.data == OFFCHAIN_LOOKUP
    assert hostile.requests == 1


def test_w3__one_of_a_batch_refused__is_rejected(hostile: HostileNode, make_w3: Callable[..., Web3]) -> None:
    hostile.results["eth_getBalance"] = "0x7"
    hostile.answer = refusal({"code": -32000, "message": "no"})(hostile)
    w3 = make_w3(hostile.url)
    with w3.batch_requests() as batch:
        batch.add(w3.eth.get_balance(ADDRESS))
        batch.add(w3.eth.get_balance(ADDRESS))
        with pytest.raises(RpcRejected, match="eth_getBalance was refused: no"):
            batch.execute()


def test_check_deployment__a_code_is_refused__raises_the_refusal(
    hostile: HostileNode, deployment: Any, abi_folder: Path
) -> None:
    hostile.results["eth_getBlockByNumber"] = {"hash": "0x" + deployment.genesis_hash.hex()}
    hostile.answer = refusal({"code": -32000, "message": "no state"})(hostile)
    with ChainClient([hostile.url], deployment, limits=QUICK, abi_folder=abi_folder) as client:
        with pytest.raises(RpcRejected, match="no state"):
            client.check_deployment()
        hostile.answer = hostile.honest
        hostile.results["eth_getCode"] = "0x"
        with pytest.raises(ChainError, match="has no code"):
            client.check_deployment()
