"""The chain client against a real node and, where a node must lie, a hostile one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.chain import fees
from protocol.chain.client import ChainClient
from protocol.chain.deployments import ContractRecord, Deployment, Profile, code_hash
from protocol.chain.exceptions import (
    ContractReverted,
    DeploymentError,
    MalformedAnswer,
    RpcRejected,
    RpcUnavailable,
    WrongChain,
)
from protocol.chain.transactions import Transaction, unsigned_bytes
from protocol.chain.views import Fees, Head, Lease, LeaseOffer, RawLog, TxReceipt
from protocol.signing import Signer
from tests.protocol.chain.conftest import QUICK
from tests.protocol.chain.hostile_node import GENESIS, HostileNode
from tests.protocol.chain.probe import compiled, export_abi, probe_abi
from tests.support.anvil import Anvil, AnvilError, dev_account, find_anvil

PAIRS = [{"who": "0x" + "11" * 20, "amount": 5}, ("0x" + "22" * 20, 7)]


def transact(node: Anvil, client: ChainClient, function: str, *args: Any, value: int = 0) -> bytes:
    """A transaction of an unlocked account; returns its hash."""
    request = {
        "from": dev_account(1).address,
        "to": client.deployment.address("Probe"),
        "data": "0x" + client.encode("Probe", function, *args).hex(),
        "value": hex(value),
    }
    tx_hash: str = node.rpc("eth_sendTransaction", [request])
    node.wait_receipt(tx_hash)
    return bytes.fromhex(tx_hash[2:])


def test_check_deployment__own_chain__passes(client: ChainClient) -> None:
    client.check_deployment()


def with_record(deployment: Deployment, **changes: Any) -> Deployment:
    return replace(deployment, contracts={"Probe": replace(deployment.contract("Probe"), **changes)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "0x" + "12" * 20}, "has no code"),
        ({"code_hash": code_hash(b"other")}, "has other code"),
        ({"abi_hash": bytes(32)}, "has another ABI"),
    ],
)
def test_check_deployment__foreign_file__says_what_is_wrong(
    node: Anvil, deployment: Deployment, abi_folder: Path, changes: dict[str, Any], message: str
) -> None:
    foreign = with_record(deployment, **changes)
    with (
        ChainClient([node.url], foreign, limits=QUICK, abi_folder=abi_folder) as client,
        pytest.raises(DeploymentError, match=f"Probe at 0x.* on chain 31337 {message}.*deploy"),
    ):
        client.check_deployment()


def test_check_deployment__missing_abi__says_what_to_do(node: Anvil, deployment: Deployment, tmp_path: Path) -> None:
    with (
        ChainClient([node.url], deployment, limits=QUICK, abi_folder=tmp_path) as client,
        pytest.raises(DeploymentError, match="export the ABIs again"),
    ):
        client.check_deployment()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"chain_id": 8453}, "serves chain 31337, expected chain 8453"), ({"genesis_hash": bytes(32)}, "another genesis")],
)
def test_any_call__wrong_chain__is_refused(
    node: Anvil, deployment: Deployment, abi_folder: Path, changes: dict[str, Any], message: str
) -> None:
    wrong = replace(deployment, **changes)
    with ChainClient([node.url], wrong, limits=QUICK, abi_folder=abi_folder) as client:
        for call in (client.head, client.fees, client.check_deployment):
            with pytest.raises(WrongChain, match=message):
                call()


def test_read__several_at_once__in_one_request(client: ChainClient, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[int] = []
    original = client.rpc._exchange

    def counting(*args: Any) -> Any:
        posted.append(1)
        return original(*args)

    monkeypatch.setattr(client.rpc, "_exchange", counting)
    reads = client.reads
    total, pair = client.get(reads.view("Probe", "sum", PAIRS, True))
    results = client.read([reads.view("Probe", "sum", PAIRS, True), reads.view("Probe", "counts", 404)])
    assert results == [(12, {"who": "0x2222222222222222222222222222222222222222", "amount": 7}), 0]
    assert (total, pair["amount"]) == (12, 7)
    assert len(posted) == 2


def test_read__at_an_earlier_block__gives_that_state(node: Anvil, client: ChainClient) -> None:
    before = client.head().number
    transact(node, client, "bump", 900, "x")
    call = client.reads.view("Probe", "counts", 900)
    assert (client.get(call, before), client.get(call)) == (0, 1)


def test_read__one_reverts__raises_its_reason_or_keeps_its_place(client: ChainClient) -> None:
    calls = [client.reads.view("Probe", "fail"), client.reads.view("Probe", "counts", 405)]
    with pytest.raises(ContractReverted, match="the contract refused: escrow: lease not active"):
        client.read(calls)
    failed, count = client.read_each(calls)
    assert isinstance(failed, ContractReverted)
    assert (failed.reason, count) == ("escrow: lease not active", 0)


def test_read__arithmetic_overflow__is_a_revert(client: ChainClient) -> None:
    with pytest.raises(ContractReverted):
        client.get(client.reads.view("Probe", "overflow", 1))


def test_read__no_contract_there__is_malformed(node: Anvil, deployment: Deployment, abi_folder: Path) -> None:
    empty = with_record(deployment, address="0x" + "12" * 20)
    with (
        ChainClient([node.url], empty, limits=QUICK, abi_folder=abi_folder) as client,
        pytest.raises(MalformedAnswer, match=r"Probe.counts answered 0 bytes"),
    ):
        client.get(client.reads.view("Probe", "counts", 1))


def test_head__after_time_travel__is_the_chains_time(node: Anvil, client: ChainClient) -> None:
    before = client.head()
    after_jump = node.time_travel(7 * 86_400)
    head = client.head()
    assert head.timestamp == after_jump >= before.timestamp + 7 * 86_400
    assert client.get(client.reads.view("Probe", "now"), head.number) == head.timestamp
    assert client.block(head.number) == head
    assert client.block(head.number + 100) is None


@pytest.mark.parametrize("confirmations", [1, 5])
def test_final_block__by_confirmations(
    node: Anvil, make_client: Callable[..., ChainClient], confirmations: int
) -> None:
    node.mine(6)
    client = make_client(node.url, profile=Profile("p", confirmations=confirmations))
    assert client.final_block() == node.block_number() - confirmations + 1


def test_final_block__by_tag() -> None:
    with Anvil(["--slots-in-an-epoch", "4"]) as node:
        node.mine(20)
        numbers = {}
        for tag in ("safe", "finalized"):
            genesis = bytes.fromhex(node.rpc("eth_getBlockByNumber", ["0x0", False])["hash"][2:])
            deployment = Deployment(31337, genesis, 0, Profile("p", finality_tag=tag), {})
            with ChainClient([node.url], deployment, limits=QUICK) as client:
                numbers[tag] = client.final_block()
        assert numbers == {"safe": 16, "finalized": 12}


def test_fees__follow_the_base_fee(node: Anvil, client: ChainClient) -> None:
    suggested = client.fees()
    base = client.head().base_fee
    assert suggested.max_fee == 2 * base + suggested.tip


def test_balance_and_count__are_the_nodes(node: Anvil, client: ChainClient, signer: Signer) -> None:
    assert client.balance(signer.address) == 10**18
    assert client.transaction_count(signer.address) == 0


def test_receipt_and_events__of_a_transaction(node: Anvil, client: ChainClient) -> None:
    tx_hash = transact(node, client, "bump", 901, "hi")
    receipt = client.receipt(tx_hash)
    assert receipt is not None
    assert receipt.succeeded
    assert receipt.cost == receipt.gas_used * receipt.gas_price
    assert TxReceipt.parse(receipt.as_json(), tx_hash) == receipt
    (event,) = client.events(receipt.block_number, receipt.block_number)
    assert event.contract == "Probe"
    assert event.name == "Bumped"
    assert event.tx_hash == tx_hash
    assert (event.block_number, event.block_hash) == (receipt.block_number, receipt.block_hash)
    assert dict(event.args) == {
        "caller": dev_account(1).address,
        "slot": 901,
        "label": client.decoder.decode_all(receipt.logs)[0].args["label"],
        "count": 1,
        "note": "hi",
        "pair": {"who": dev_account(1).address, "amount": 7},
    }
    assert client.receipt(bytes(32)) is None


def test_logs__filtered_by_topic_and_address(node: Anvil, client: ChainClient) -> None:
    first = node.block_number() + 1
    transact(node, client, "bump", 902, "")
    transact(node, client, "pay", value=3)
    last = node.block_number()
    assert [event.name for event in client.events(first, last)] == ["Bumped", "Paid"]
    paid = client.logs(first, last, topics=[[client.decoder.topic_of("Probe", "Paid")]])
    assert [event.args["amount"] for event in client.decoder.decode_all(paid)] == [3]
    assert client.logs(first, last, addresses=["0x" + "33" * 20]) == []


def test_logs__range_refused__is_the_nodes_error(client: ChainClient) -> None:
    with pytest.raises(RpcRejected):
        client.logs(10**9 + 1, 10**9)


LOG = {
    "address": "0x" + "44" * 20,
    "topics": ["0x" + "01" * 32],
    "data": "0x",
    "blockNumber": "0x5",
    "blockHash": "0x" + "02" * 32,
    "transactionHash": "0x" + "03" * 32,
    "transactionIndex": "0x0",
    "logIndex": "0x0",
    "removed": False,
}
RECEIPT = {
    "transactionHash": "0x" + "03" * 32,
    "blockNumber": "0x5",
    "blockHash": "0x" + "02" * 32,
    "from": "0x" + "55" * 20,
    "status": "0x1",
    "gasUsed": "0x5208",
    "effectiveGasPrice": "0x1",
    "logs": [LOG],
}
BLOCK = {
    "number": "0x5",
    "hash": GENESIS,
    "parentHash": "0x" + "06" * 32,
    "timestamp": "0x64",
    "baseFeePerGas": "0x7",
}


@pytest.fixture
def liar(tmp_path: Path) -> Any:
    deployment = Deployment(
        31337,
        bytes.fromhex(GENESIS[2:]),
        0,
        Profile("p", confirmations=1),
        {"Probe": ContractRecord(LOG["address"], bytes(32), bytes(32))},  # type: ignore[arg-type]
    )
    with HostileNode() as node:
        client = ChainClient([node.url], deployment, limits=QUICK, abi_folder=export_abi(tmp_path / "abi"))
        with client:
            yield node, client


BAD: list[Any] = [None, 5, True, [], {}, "", "0x", "0xzz", "1", "0x" + "f" * 65, "0x-1", "é"]


@pytest.mark.parametrize("member", ["number", "hash", "parentHash", "timestamp", "baseFeePerGas"])
def test_head__any_member_wrong__is_malformed(liar: tuple[HostileNode, ChainClient], member: str) -> None:
    node, client = liar
    node.results["eth_getBlockByNumber"] = BLOCK
    assert client.head() == Head(5, bytes.fromhex(GENESIS[2:]), b"\x06" * 32, 100, 7)
    for bad in BAD:
        if (member, bad) == ("baseFeePerGas", None):
            continue
        node.results["eth_getBlockByNumber"] = {**BLOCK, member: bad}
        with pytest.raises((MalformedAnswer, WrongChain)):
            client.head()


@pytest.mark.parametrize("member", [name for name in RECEIPT if name != "logs"])
def test_receipt__any_member_wrong__is_malformed(liar: tuple[HostileNode, ChainClient], member: str) -> None:
    node, client = liar
    node.results["eth_getTransactionReceipt"] = RECEIPT
    assert client.receipt(b"\x03" * 32) is not None
    for bad in [*BAD, "0x2" + "0" * 62]:
        node.results["eth_getTransactionReceipt"] = {**RECEIPT, member: bad}
        with pytest.raises(MalformedAnswer):
            client.receipt(b"\x03" * 32)


def test_receipt__of_another_transaction__is_malformed(liar: tuple[HostileNode, ChainClient]) -> None:
    node, client = liar
    node.results["eth_getTransactionReceipt"] = RECEIPT
    with pytest.raises(MalformedAnswer, match="another transaction"):
        client.receipt(b"\x04" * 32)
    node.results["eth_getTransactionReceipt"] = {**RECEIPT, "logs": [{**LOG, "transactionHash": "0x" + "07" * 32}]}
    with pytest.raises(MalformedAnswer, match="logs of another"):
        client.receipt(b"\x03" * 32)


@pytest.mark.parametrize("member", [name for name in LOG if name != "removed"])
def test_logs__any_member_wrong__is_malformed(liar: tuple[HostileNode, ChainClient], member: str) -> None:
    node, client = liar
    node.results["eth_getLogs"] = [LOG]
    assert client.logs(5, 5) == [RawLog.parse(LOG)]
    for bad in BAD:
        if (member, bad) in (("data", "0x"), ("topics", [])):
            continue
        node.results["eth_getLogs"] = [{**LOG, member: bad}]
        with pytest.raises(MalformedAnswer):
            client.logs(5, 5)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        "0x",
        [5],
        [{**LOG, "removed": True}],
        [{**LOG, "address": "0x" + "99" * 20}],
        [{**LOG, "blockNumber": "0x6"}],
        [{**LOG, "topics": ["0x" + "01" * 32] * 5}],
    ],
)
def test_logs__not_asked_for__is_malformed(liar: tuple[HostileNode, ChainClient], answer: Any) -> None:
    node, client = liar
    node.results["eth_getLogs"] = answer
    with pytest.raises(MalformedAnswer):
        client.logs(5, 5)


@pytest.mark.parametrize("bad", BAD)
def test_scalars__wrong_type__are_malformed(liar: tuple[HostileNode, ChainClient], bad: Any) -> None:
    node, client = liar
    node.results |= {
        "eth_getBalance": bad,
        "eth_getTransactionCount": bad,
        "eth_estimateGas": bad,
        "eth_call": bad,
        "eth_maxPriorityFeePerGas": bad,
        "eth_getCode": bad,
    }
    address = client.deployment.address("Probe")
    for call in (
        lambda: client.balance(address),
        lambda: client.transaction_count(address),
        lambda: client.estimate_gas({"to": address}),
        lambda: client.get(client.reads.view("Probe", "counts", 1)),
        client.fees,
        client.check_deployment,
    ):
        with pytest.raises((MalformedAnswer, DeploymentError)):
            call()


def test_estimate_gas__would_revert__gives_the_reason(client: ChainClient, signer: Signer) -> None:
    transaction = Transaction(client.deployment.address("Probe"), client.encode("Probe", "fail"))
    with pytest.raises(ContractReverted, match="escrow: lease not active"):
        client.estimate_gas(transaction.as_request(signer.address))


def test_total_cost__without_data_fee__is_gas_times_bid(client: ChainClient, signer: Signer) -> None:
    transaction = Transaction(client.deployment.address("Probe"), client.encode("Probe", "bump", 1, ""))
    cost = fees.total_cost_estimate(client, signer.address, transaction)
    assert cost.l1_fee == 0
    assert cost.total == cost.gas * cost.fees.max_fee > 0


def test_total_cost__with_data_fee__asks_the_oracle(
    node: Anvil, make_client: Callable[..., ChainClient], signer: Signer
) -> None:
    """A real contract at the predeploy's address charges 16 wei for each byte it is given."""
    from vyper import compile_code

    source = """
@external
@view
def getL1Fee(data: Bytes[8192]) -> uint256:
    return 16 * len(data)
"""
    runtime = compile_code(source, output_formats=["bytecode_runtime"])["bytecode_runtime"]
    node.rpc("anvil_setCode", [fees.GAS_PRICE_ORACLE, runtime])
    client = make_client(node.url, profile=Profile("base", finality_tag="finalized", l1_fee=True))
    transaction = Transaction(client.deployment.address("Probe"), client.encode("Probe", "bump", 1, ""))
    bid = Fees(10, 1)
    cost = fees.total_cost_estimate(client, signer.address, transaction, gas=50_000, fees=bid)
    raw = unsigned_bytes(transaction, chain_id=31337, nonce=2**32 - 1, gas=50_000, fees=bid)
    assert cost.l1_fee == 16 * len(raw)
    assert cost.total == 50_000 * 10 + 16 * len(raw)


def test_structs__of_another_abi__say_so() -> None:
    with pytest.raises(DeploymentError, match="other members"):
        Lease.of({"owner": "0x"})
    values = dict.fromkeys(LeaseOffer.__dataclass_fields__, 0)
    assert LeaseOffer.of({**values, "added_later": 1}).version == 0


def test_reads__contract_not_deployed__says_so(client: ChainClient) -> None:
    with pytest.raises(DeploymentError, match="LeaseEscrow"):
        client.lease(bytes(32))


def test_abi_file__round_trip(tmp_path: Path) -> None:
    exported = json.loads((export_abi(tmp_path) / "Probe.json").read_text(encoding="utf-8"))
    assert exported == compiled()[1] == probe_abi().entries


def test_client__node_gone__is_unavailable(deployment: Deployment, abi_folder: Path) -> None:
    with Anvil() as node:
        url = node.url
    with (
        ChainClient([url], deployment, limits=QUICK, abi_folder=abi_folder) as client,
        pytest.raises(RpcUnavailable, match="check the network"),
    ):
        client.head()


def test_anvil__missing__says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANVIL", str(tmp_path / "none"))
    with pytest.raises(AnvilError, match="is not an executable file"):
        find_anvil()
    monkeypatch.delenv("ANVIL")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.support.anvil.ROOT", tmp_path)
    with pytest.raises(AnvilError, match="npm ci"):
        Anvil().start()


def test_anvil__port_in_use__says_so(node: Anvil) -> None:
    with pytest.raises(AnvilError, match="in use"):
        Anvil(port=node.port).start()
