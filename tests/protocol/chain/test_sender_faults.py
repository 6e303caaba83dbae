"""The sender through kill -9, outages of the RPC endpoint, a restarted chain and random sequences of faults."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from protocol.chain.client import ChainClient
from protocol.chain.deployments import Deployment, Profile
from protocol.chain.exceptions import RpcUnavailable, UnknownIntent, WrongChain
from protocol.chain.intents import State
from protocol.chain.rpc import RpcLimits
from protocol.chain.sender import Outcome, SenderPolicy, TransactionSender
from protocol.signing import Signer
from tests.protocol.chain.conftest import QUICK
from tests.protocol.chain.hostile_node import HostileNode
from tests.protocol.chain.probe import deploy_probe, export_abi, funded
from tests.protocol.chain.test_sender import bump, count, foreign_transaction, settle
from tests.support.anvil import ROOT, Anvil, RpcFailure
from tests.support.tcp_proxy import TcpProxy

CALM = SenderPolicy(stuck_s=1000, poll_s=0.02)


@pytest.fixture
def proxy(node: Anvil) -> Iterator[TcpProxy]:
    with TcpProxy(node.port) as found:
        yield found


def run_process(point: str, node: Anvil, deployment: Deployment, signer: Signer, folder: Path, slot: int) -> Any:
    task = {
        "point": point,
        "url": node.url,
        "deployment": json.loads(deployment.as_json()),
        "abi_folder": str(export_abi(folder / "abi")),
        "key": signer.private_key.hex(),
        "path": str(folder / "sender.sqlite"),
        "slot": slot,
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.protocol.chain.sender_process", json.dumps(task)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "recorded", "mining"),
    [
        ("before-record", False, True),
        ("after-record", True, True),
        ("after-broadcast", True, True),
        ("after-broadcast", True, False),
        ("after-replacement-record", True, False),
    ],
)
def test_kill_9__restarted__exactly_one_effect(
    node: Anvil,
    client: ChainClient,
    deployment: Deployment,
    signer: Signer,
    quick_folder: Path,
    point: str,
    recorded: bool,
    mining: bool,
) -> None:
    slot = zlib.crc32(f"{point}{mining}".encode())
    node.automine(mining)
    killed = run_process(point, node, deployment, signer, quick_folder, slot)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with TransactionSender(client, signer, quick_folder / "sender.sqlite", CALM) as sender:
        assert bool(sender.pending()) == recorded
        sender.send("once", *bump(client, slot))
        outcome = settle(node, sender, "once")
    assert outcome.succeeded
    assert count(client, slot) == 1
    assert client.transaction_count(signer.address) == 1
    node.automine(True)
    finished = run_process("none", node, deployment, signer, quick_folder, slot)
    assert finished.stdout.strip() == "final", finished.stderr
    assert count(client, slot) == 1


def test_full_disk__nothing_is_sent(
    node: Anvil, client: ChainClient, deployment: Deployment, signer: Signer, quick_folder: Path
) -> None:
    finished = run_process("full-disk", node, deployment, signer, quick_folder, 5)
    assert "nothing was sent; check the disk" in finished.stdout, finished.stderr
    assert client.transaction_count(signer.address, "pending") == 0
    with TransactionSender(client, signer, quick_folder / "sender.sqlite", CALM) as sender:
        assert sender.pending() == []
        sender.send("once", *bump(client, 5))
        assert settle(node, sender, "once").succeeded
    assert count(client, 5) == 1


def test_outage__before_send__nothing_is_recorded(
    make_client: Callable[..., ChainClient], proxy: TcpProxy, signer: Signer, quick_folder: Path
) -> None:
    client = make_client(proxy.url)
    with TransactionSender(client, signer, quick_folder / "s.sqlite", CALM) as sender:
        to, data = bump(client, 100)
        proxy.cut()
        with pytest.raises(RpcUnavailable, match="no RPC endpoint answers"):
            sender.send("a", to, data)
        with pytest.raises(UnknownIntent):
            sender.outcome("a")
        proxy.restore()
        assert sender.execute("a", to, data, timeout=20).succeeded
    assert count(client, 100) == 1


@pytest.mark.parametrize("after", [False, True])
def test_outage__at_the_broadcast__is_completed_when_it_is_over(
    make_client: Callable[..., ChainClient], proxy: TcpProxy, signer: Signer, quick_folder: Path, after: bool
) -> None:
    client = make_client(proxy.url)
    slot = 101 + after
    with TransactionSender(client, signer, quick_folder / "s.sqlite", CALM) as sender:
        proxy.cut_on(b"eth_sendRawTransaction", after=after)
        outcome = sender.send("a", *bump(client, slot))
        assert proxy.wait_until_cut()
        assert outcome.state is State.PENDING
        assert "no RPC endpoint answers" in outcome.note
        proxy.restore()
        assert sender.send("a", *bump(client, slot)).tx_hash == outcome.tx_hash
        final = sender.wait("a", timeout=20)
    assert final.tx_hash == outcome.tx_hash
    assert count(client, slot) == 1
    assert client.transaction_count(signer.address) == 1


def test_outage__while_waiting__is_ridden_out(
    node: Anvil, make_client: Callable[..., ChainClient], proxy: TcpProxy, signer: Signer, quick_folder: Path
) -> None:
    node.automine(False)
    client = make_client(proxy.url)
    with TransactionSender(client, signer, quick_folder / "s.sqlite", CALM) as sender:
        sender.send("a", *bump(client, 103))
        found: list[Outcome] = []
        waiting = threading.Thread(target=lambda: found.append(sender.wait("a", timeout=30)))
        waiting.start()
        proxy.cut()
        node.mine()
        proxy.restore()
        waiting.join(30)
        assert [outcome.succeeded for outcome in found] == [True]
    assert count(client, 103) == 1


def test_restarted_chain__is_recognised_and_nothing_is_sent_to_it(quick_folder: Path) -> None:
    with Anvil() as first:
        deployment = deploy_probe(first)
        port = first.port
        signer = funded(first, 9)
        client = ChainClient([first.url], deployment, limits=QUICK, abi_folder=export_abi(quick_folder / "abi"))
        sender = TransactionSender(client, signer, quick_folder / "s.sqlite", CALM)
        assert sender.execute("a", *bump(client, 1), timeout=20).succeeded
        genesis = first.timestamp()
    with Anvil(["--timestamp", str(genesis + 1000)], port=port) as second, client, sender:
        second.set_balance(signer.address, 10**18)
        with pytest.raises(WrongChain, match="another genesis block"):
            sender.send("b", *bump(client, 2))
        assert second.rpc("eth_getTransactionCount", [signer.address, "pending"]) == "0x0"


def test_lying_endpoint__hides_our_receipt__another_one_vetoes_sending_anew(
    node: Anvil, make_client: Callable[..., ChainClient], signer: Signer, quick_folder: Path
) -> None:
    with HostileNode() as liar:
        liar.relay(node.url, lambda call, result: None if "Receipt" in call["method"] else result)
        client = make_client(liar.url, node.url)
        with TransactionSender(client, signer, quick_folder / "s.sqlite", CALM) as sender:
            first = sender.send("a", *bump(client, 110))
            for _ in range(3):
                sender.step()
                node.mine()
            assert sender.outcome("a") == first
            liar.relay(node.url, lambda _, result: result)
            assert sender.wait("a", timeout=20).tx_hash == first.tx_hash
        assert count(client, 110) == 1
        assert client.transaction_count(signer.address) == 1


def test_lying_endpoint__shows_the_receipt_of_an_undone_block__is_not_final(
    node: Anvil, make_client: Callable[..., ChainClient], signer: Signer, quick_folder: Path
) -> None:
    with HostileNode() as liar:
        stale: dict[str, Any] = {}

        def remember(call: dict[str, Any], result: Any) -> Any:
            if "Receipt" not in call["method"]:
                return result
            return stale.setdefault(call["params"][0], result) if result else stale.get(call["params"][0])

        liar.relay(node.url, remember)
        client = make_client(liar.url, profile=Profile("slow", confirmations=3))
        with TransactionSender(client, signer, quick_folder / "s.sqlite", CALM) as sender:
            sender.send("a", *bump(client, 111))
            assert sender.wait("a", timeout=20, until=State.MINED).state is State.MINED
            node.automine(False)
            node.rpc("anvil_reorg", [1, []])
            node.rpc("anvil_dropAllTransactions")
            node.mine(5)
            sender.step()
            assert sender.outcome("a").state is State.PENDING
            liar.relay(node.url, lambda _, result: result)
            assert settle(node, sender, "a").succeeded
        assert count(client, 111) == 1


class SenderUnderFaults(RuleBasedStateMachine):
    """Any sequence of faults; in the end every intent took effect exactly once."""

    folder: Path
    started = 0

    def __init__(self) -> None:
        """A node of its own: snapshots do not survive reorganisations."""
        super().__init__()
        cls = type(self)
        cls.started += 1
        self.run = cls.started
        self.node = Anvil(["--no-mining"])
        self.node.start()
        self.node.automine(True)
        self.deployment = deploy_probe(self.node, Profile("slow", confirmations=4))
        self.node.automine(False)
        self.signer = funded(self.node, 2**32 + self.run, 10**21)
        self.node.mine(5)
        self.slots: dict[str, int] = {}
        self.client = ChainClient(
            [self.node.url], self.deployment, limits=RpcLimits(rounds=1), abi_folder=export_abi(self.folder / "abi")
        )
        self.sender = self.open()

    def open(self) -> TransactionSender:
        policy = SenderPolicy(stuck_s=0, stuck_blocks=2, poll_s=0.01, max_fee=10**13, max_tip=10**13)
        return TransactionSender(self.client, self.signer, self.folder / f"{self.run}.sqlite", policy)

    @rule(number=st.integers(0, 4))
    def send(self, number: int) -> None:
        key = f"k{number}"
        slot = self.run * 100 + number
        self.sender.send(key, *bump(self.client, slot), gas=200_000)  # what it needs depends on who comes first
        self.slots[key] = slot

    @rule(blocks=st.integers(1, 3))
    def mine(self, blocks: int) -> None:
        self.node.mine(blocks)

    @rule()
    def step(self) -> None:
        self.sender.step()

    @rule()
    def drop_pool(self) -> None:
        self.node.rpc("anvil_dropAllTransactions")

    @rule()
    def drop_first(self) -> None:
        for outcome in self.sender.pending()[:1]:
            self.node.rpc("anvil_dropTransaction", ["0x" + outcome.tx_hash.hex()])

    @rule(depth=st.integers(1, 2))
    def reorganise(self, depth: int) -> None:
        self.node.rpc("anvil_reorg", [depth, []])

    @rule()
    def restart(self) -> None:
        self.sender.close()
        self.sender = self.open()

    @rule()
    def foreign(self) -> None:
        """The same key used elsewhere, bidding more than we do, at the very nonce we want."""
        nonce = self.client.transaction_count(self.signer.address)
        try:
            foreign_transaction(self.node, self.signer, nonce, max_fee=10**12)
        except RpcFailure as error:
            if "underpriced" not in str(error) and "already imported" not in str(error):
                raise

    @invariant()
    def never_twice(self) -> None:
        assert all(count(self.client, slot) <= 1 for slot in self.slots.values())

    def teardown(self) -> None:
        try:
            for key in self.slots:
                outcome = settle(self.node, self.sender, key)
                assert outcome.succeeded, outcome
            assert all(count(self.client, slot) == 1 for slot in self.slots.values())
        finally:
            self.sender.close()
            self.client.close()
            self.node.stop()


FAULT_RUNS = settings(
    max_examples=25,
    stateful_step_count=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
def test_any_sequence_of_faults__every_intent_takes_effect_once(quick_folder: Path) -> None:
    SenderUnderFaults.folder = quick_folder
    run_state_machine_as_test(SenderUnderFaults, settings=FAULT_RUNS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_hundreds_of_sequences_of_faults__every_intent_takes_effect_once(quick_folder: Path) -> None:
    SenderUnderFaults.folder = quick_folder
    longer = settings(FAULT_RUNS, max_examples=400, stateful_step_count=40, derandomize=False, print_blob=True)
    run_state_machine_as_test(SenderUnderFaults, settings=longer)
