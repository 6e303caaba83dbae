"""The transaction sender against a real node: each intent takes effect exactly once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from protocol.chain.client import ChainClient
from protocol.chain.deployments import Profile
from protocol.chain.exceptions import (
    ContractReverted,
    FeeTooHigh,
    ForeignStore,
    InsufficientFunds,
    IntentConflict,
    NonceGap,
    SenderLocked,
    TransactionReverted,
    TransactionTimeout,
    UnknownIntent,
)
from protocol.chain.intents import State
from protocol.chain.sender import Outcome, SenderPolicy, TransactionSender
from protocol.chain.transactions import Transaction, sign
from protocol.chain.views import Fees
from protocol.exceptions import InvalidField
from protocol.signing import Signer
from tests.protocol.chain.hostile_node import HostileNode
from tests.protocol.chain.probe import ETHER, funded
from tests.support.anvil import Anvil

CALM = SenderPolicy(stuck_s=1000, poll_s=0.02)
HASTY = SenderPolicy(stuck_s=0, poll_s=0.02)
GWEI = 10**9
MakeSender = Callable[..., TransactionSender]


@pytest.fixture
def make_sender(client: ChainClient, signer: Signer, quick_folder: Path) -> Iterator[MakeSender]:
    senders: list[TransactionSender] = []

    def make(policy: SenderPolicy = CALM, *, through: ChainClient = client, name: str = "sender") -> TransactionSender:
        senders.append(TransactionSender(through, signer, quick_folder / f"{name}.sqlite", policy))
        return senders[-1]

    yield make
    for sender in senders:
        sender.close()


def bump(client: ChainClient, slot: int) -> tuple[str, bytes]:
    return client.deployment.address("Probe"), client.encode("Probe", "bump", slot, "hello")


def count(client: ChainClient, slot: int) -> int:
    result: int = client.get(client.reads.view("Probe", "counts", slot))
    return result


def attempts(sender: TransactionSender, key: str) -> list[tuple[bytes, int, int]]:
    """Hash, bid and tip of each attempt, oldest first."""
    return [(a.hash, a.fees.max_fee, a.fees.tip) for a in sender._find(key).attempts]


def foreign_transaction(node: Anvil, signer: Signer, nonce: int, max_fee: int = 50 * GWEI) -> str:
    """A transaction of the same account that the sender knows nothing of."""
    raw, _ = sign(
        Transaction(signer.address),
        signer,
        chain_id=node.chain_id,
        nonce=nonce,
        gas=21_000,
        fees=Fees(max_fee, max_fee // 2),
    )
    tx_hash: str = node.rpc("eth_sendRawTransaction", ["0x" + raw.hex()])
    return tx_hash


def settle(node: Anvil, sender: TransactionSender, key: str) -> Outcome:
    """Mine and step until the intent has ended."""
    for _ in range(30):
        sender.step()
        if sender.outcome(key).state in (State.FINAL, State.REFUSED):
            return sender.outcome(key)
        node.mine()
    raise AssertionError(f"{sender.outcome(key)}")


def test_send__repeated_key__has_one_effect_and_one_outcome(client: ChainClient, make_sender: MakeSender) -> None:
    sender = make_sender()
    sender.send("a", *bump(client, 1))
    first = sender.wait("a", timeout=20)
    again = sender.send("a", *bump(client, 1))
    assert first == again
    assert first.state is State.FINAL
    assert first.succeeded
    assert count(client, 1) == 1
    assert first.receipt is not None
    event = client.decoder.decode_all(first.receipt.logs)[0]
    assert (event.name, event.args["count"], event.args["note"]) == ("Bumped", 1, "hello")


def test_send__key_of_another_transaction__is_refused(client: ChainClient, make_sender: MakeSender) -> None:
    sender = make_sender()
    sender.send("a", *bump(client, 2))
    with pytest.raises(IntentConflict, match="choose a new key"):
        sender.send("a", *bump(client, 3))
    with pytest.raises(IntentConflict):
        sender.send("a", *bump(client, 2), 1)
    assert count(client, 3) == 0


@pytest.mark.parametrize("key", ["", "fill-nonce:3"])
def test_send__reserved_key__is_refused(client: ChainClient, make_sender: MakeSender, key: str) -> None:
    with pytest.raises(IntentConflict):
        make_sender().send(key, *bump(client, 4))


@pytest.mark.parametrize(("to", "value"), [("0x1234", 0), ("0x" + "11" * 20, -1), ("0x" + "11" * 20, 2**256)])
def test_send__bad_field__is_named(make_sender: MakeSender, to: str, value: int) -> None:
    with pytest.raises(InvalidField, match=r"^(to|value)"):
        make_sender().send("bad", to, b"", value)


def test_wait__unknown_key__is_refused(make_sender: MakeSender) -> None:
    with pytest.raises(UnknownIntent, match="nothing was sent under the key 'never'"):
        make_sender().wait("never", timeout=1)


def test_send__several_in_flight__are_mined_in_order(node: Anvil, client: ChainClient, make_sender: MakeSender) -> None:
    node.automine(False)
    sender = make_sender()
    nonces = [sender.send(f"k{i}", *bump(client, 10 + i)).nonce for i in range(5)]
    assert nonces == [0, 1, 2, 3, 4]
    assert [outcome.key for outcome in sender.pending()] == [f"k{i}" for i in range(5)]
    settle(node, sender, "k4")
    assert sender.pending() == []
    assert [count(client, 10 + i) for i in range(5)] == [1] * 5


def test_send__from_many_threads__each_key_takes_effect_once(client: ChainClient, make_sender: MakeSender) -> None:
    sender = make_sender()

    def work(number: int) -> Outcome:
        key = f"t{number % 6}"
        return sender.execute(key, *bump(client, 20 + number % 6), timeout=30)

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(work, range(18)))
    assert all(outcome.succeeded for outcome in outcomes)
    assert [count(client, 20 + i) for i in range(6)] == [1] * 6
    assert len({outcome.tx_hash for outcome in outcomes}) == 6


def test_step__base_fee_passed_the_bid__same_nonce_is_bid_higher(
    node: Anvil, client: ChainClient, make_sender: MakeSender
) -> None:
    node.automine(False)
    sender = make_sender(HASTY)
    nonce = sender.send("up", *bump(client, 30)).nonce
    _, bid, _ = attempts(sender, "up")[0]
    node.rpc("anvil_setNextBlockBaseFeePerGas", [hex(bid * 3)])
    node.mine()
    assert sender.outcome("up").state is State.PENDING
    outcome = settle(node, sender, "up")
    assert outcome.succeeded
    assert outcome.nonce == nonce
    made = attempts(sender, "up")
    assert len(made) > 1
    assert outcome.tx_hash in [tx_hash for tx_hash, _, _ in made[1:]]
    for (_, old_fee, old_tip), (_, new_fee, new_tip) in pairwise(made):
        assert new_fee * 1000 >= old_fee * 1125
        assert new_tip * 1000 >= old_tip * 1125
    assert count(client, 30) == 1
    node.rpc("anvil_setNextBlockBaseFeePerGas", [hex(GWEI)])


def test_step__stuck_for_blocks__is_bid_higher(node: Anvil, client: ChainClient, make_sender: MakeSender) -> None:
    node.automine(False)
    sender = make_sender(SenderPolicy(stuck_s=1000, stuck_blocks=3, poll_s=0.02))
    sender.send("slow", *bump(client, 31))
    node.rpc("anvil_dropTransaction", ["0x" + sender.outcome("slow").tx_hash.hex()])
    node.mine(2)
    assert len(attempts(sender, "slow")) == 1
    node.mine(1)
    sender.step()
    assert len(attempts(sender, "slow")) == 2
    assert settle(node, sender, "slow").succeeded
    assert count(client, 31) == 1


def test_step__bid_at_the_ceiling__stays_and_says_so(node: Anvil, client: ChainClient, make_sender: MakeSender) -> None:
    node.automine(False)
    ceiling = client.fees().max_fee
    sender = make_sender(SenderPolicy(stuck_s=0, poll_s=0.02, max_fee=ceiling))
    sender.send("capped", *bump(client, 32))
    sender.step()
    assert len(attempts(sender, "capped")) == 1
    with pytest.raises(TransactionTimeout, match=f"the ceiling is {ceiling}"):
        sender.wait("capped", timeout=0)
    assert settle(node, sender, "capped").succeeded


def test_step__dropped_transaction__is_broadcast_again_unchanged(
    node: Anvil, client: ChainClient, make_sender: MakeSender
) -> None:
    node.automine(False)
    sender = make_sender()
    tx_hash = sender.send("dropped", *bump(client, 33)).tx_hash
    node.rpc("anvil_dropTransaction", ["0x" + tx_hash.hex()])
    assert node.rpc("eth_getTransactionByHash", ["0x" + tx_hash.hex()]) is None
    sender.step()
    assert node.rpc("eth_getTransactionByHash", ["0x" + tx_hash.hex()]) is not None
    assert settle(node, sender, "dropped").tx_hash == tx_hash
    assert count(client, 33) == 1


def test_step__reorganised_out__is_sent_again_until_final(
    node: Anvil, make_client: Callable[..., ChainClient], make_sender: MakeSender
) -> None:
    client = make_client(node.url, profile=Profile("slow", confirmations=4))
    sender = make_sender(through=client)
    sender.send("reorg", *bump(client, 34))
    mined = sender.wait("reorg", timeout=20, until=State.MINED)
    assert mined.state is State.MINED
    assert mined.succeeded
    node.automine(False)
    node.rpc("anvil_reorg", [1, []])
    assert count(client, 34) == 0
    sender.step()
    assert sender.outcome("reorg").state is State.PENDING
    assert sender.outcome("reorg").receipt is None
    outcome = settle(node, sender, "reorg")
    assert outcome.succeeded
    assert outcome.receipt is not None
    assert node.block_number() - outcome.receipt.block_number + 1 >= 4
    assert count(client, 34) == 1


def test_step__final_block_undone__old_and_new_intents_take_effect_once(
    node: Anvil, client: ChainClient, make_sender: MakeSender
) -> None:
    sender = make_sender(HASTY)
    snapshot = node.snapshot()
    sender.send("first", *bump(client, 35))
    assert sender.wait("first", timeout=20).state is State.FINAL
    node.revert(snapshot)
    assert count(client, 35) == 0
    sender.send("second", *bump(client, 36))
    assert settle(node, sender, "second").succeeded
    assert settle(node, sender, "first").succeeded
    assert (count(client, 35), count(client, 36)) == (1, 1)


def test_step__foreign_transaction_took_the_nonce__signed_anew_only_once_final(
    node: Anvil, make_client: Callable[..., ChainClient], make_sender: MakeSender, signer: Signer
) -> None:
    client = make_client(node.url, profile=Profile("slow", confirmations=3))
    node.automine(False)
    sender = make_sender(through=client)
    first = sender.send("taken", *bump(client, 37))
    foreign_transaction(node, signer, first.nonce)
    node.mine()
    for _ in range(2):
        sender.step()
        assert sender.outcome("taken").nonce == first.nonce
        node.mine()
    sender.step()
    moved = sender.outcome("taken")
    assert moved.nonce == first.nonce + 1
    assert moved.tx_hash != first.tx_hash
    assert settle(node, sender, "taken").succeeded
    assert count(client, 37) == 1
    assert client.receipt(first.tx_hash) is None


def test_step__nonce_taken_and_contract_now_refuses__is_refused_for_good(
    node: Anvil, make_client: Callable[..., ChainClient], make_sender: MakeSender, signer: Signer
) -> None:
    client = make_client(node.url)
    snapshot = node.snapshot()
    node.automine(False)
    sender = make_sender(through=client)
    first = sender.send("moot", *bump(client, 38))
    foreign_transaction(node, signer, first.nonce)
    node.rpc(
        "eth_sendTransaction",
        [
            {
                "from": node.rpc("eth_accounts")[3],
                "to": client.deployment.address("Probe"),
                "data": "0x" + client.encode("Probe", "close").hex(),
            }
        ],
    )
    node.mine()
    sender.step()
    outcome = sender.outcome("moot")
    assert outcome.state is State.REFUSED
    assert "probe: closed" in outcome.note
    assert not outcome.succeeded
    assert sender.send("moot", *bump(client, 38)) == outcome
    assert count(client, 38) == 0
    node.revert(snapshot)


def test_step__dropped_foreign_transaction_before_ours__gap_is_filled(
    node: Anvil, client: ChainClient, make_sender: MakeSender, signer: Signer
) -> None:
    node.automine(False)
    foreign = foreign_transaction(node, signer, 0)
    sender = make_sender(HASTY)
    assert sender.send("behind", *bump(client, 39)).nonce == 1
    sender.step()
    assert len(sender.pending()) == 1, "a foreign transaction that a node knows is left alone"
    node.rpc("anvil_dropTransaction", [foreign])
    assert settle(node, sender, "behind").succeeded
    assert count(client, 39) == 1
    assert client.transaction_count(signer.address) == 2


def test_send__one_lie_about_the_nonce__leaves_no_gap(
    node: Anvil, make_client: Callable[..., ChainClient], signer: Signer, quick_folder: Path
) -> None:
    told: list[str] = []

    def lie(call: dict[str, Any], result: Any) -> Any:
        if call["method"] != "eth_getTransactionCount" or call["params"][1] in told:
            return result
        told.append(call["params"][1])
        return hex(int(result, 16) + 700)

    with HostileNode(node.chain_id) as liar:
        liar.relay(node.url, lie)
        client = make_client(liar.url)
        with TransactionSender(client, signer, quick_folder / "sender.sqlite", HASTY) as sender:
            assert sender.send("first", *bump(client, 941)).nonce == 0
            assert sorted(told) == ["latest", "pending"]
            assert settle(node, sender, "first").succeeded


def test_step__gap_too_wide__is_an_error_and_fills_nothing(
    node: Anvil, client: ChainClient, make_sender: MakeSender, signer: Signer
) -> None:
    node.automine(False)
    foreign = [foreign_transaction(node, signer, nonce) for nonce in range(3)]
    sender = make_sender(SenderPolicy(stuck_s=0, poll_s=0.02, max_gap=2))
    sender.send("far", *bump(client, 40))
    for tx_hash in foreign:
        node.rpc("anvil_dropTransaction", [tx_hash])
    with pytest.raises(NonceGap, match="3 transactions"):
        sender.step()
    assert [outcome.key for outcome in sender.pending()] == ["far"]


def test_send__no_money__says_how_much_and_where_to(
    node: Anvil, client: ChainClient, make_sender: MakeSender, signer: Signer
) -> None:
    sender = make_sender()
    node.set_balance(signer.address, 1000)
    with pytest.raises(InsufficientFunds) as caught:
        sender.send("poor", *bump(client, 41))
    error = caught.value
    assert error.address == signer.address
    assert error.available == 1000
    assert error.needed > 1000
    assert signer.address in str(error)
    assert str(error.needed - 1000) in str(error)
    with pytest.raises(UnknownIntent):
        sender.outcome("poor")
    node.set_balance(signer.address, error.needed)
    assert sender.execute("poor", *bump(client, 41), timeout=20).succeeded
    assert count(client, 41) == 1


def test_send__value_above_balance__is_insufficient_funds(
    client: ChainClient, make_sender: MakeSender, signer: Signer
) -> None:
    with pytest.raises(InsufficientFunds) as caught:
        make_sender().send("big", client.deployment.address("Probe"), client.encode("Probe", "pay"), 5 * ETHER)
    assert caught.value.available == ETHER
    assert caught.value.needed > 5 * ETHER


def test_send__what_is_in_flight__counts_against_the_balance(
    node: Anvil, client: ChainClient, make_sender: MakeSender, signer: Signer
) -> None:
    node.automine(False)
    sender = make_sender()
    to, data = client.deployment.address("Probe"), client.encode("Probe", "pay")
    sender.send("one", to, data, ETHER * 6 // 10, gas=50_000)
    with pytest.raises(InsufficientFunds) as caught:
        sender.send("two", to, data, ETHER * 6 // 10, gas=50_000)
    assert caught.value.needed > ETHER * 12 // 10
    assert settle(node, sender, "one").succeeded


def test_send__would_revert__gives_the_contracts_reason_and_sends_nothing(
    client: ChainClient, make_sender: MakeSender, signer: Signer
) -> None:
    sender = make_sender()
    with pytest.raises(ContractReverted) as caught:
        sender.send("bad", client.deployment.address("Probe"), client.encode("Probe", "fail"))
    assert caught.value.reason == "escrow: lease not active"
    with pytest.raises(UnknownIntent):
        sender.outcome("bad")
    assert client.transaction_count(signer.address, "pending") == 0


def test_execute__reverts_on_chain__raises_with_the_reason(client: ChainClient, make_sender: MakeSender) -> None:
    sender = make_sender()
    to = client.deployment.address("Probe")
    sender.send("bad", to, client.encode("Probe", "fail"), gas=100_000)
    with pytest.raises(TransactionReverted) as caught:
        sender.execute("bad", to, client.encode("Probe", "fail"), timeout=20)
    assert caught.value.reason == "escrow: lease not active"
    outcome = sender.outcome("bad")
    assert outcome.state is State.FINAL
    assert not outcome.succeeded
    assert caught.value.tx_hash == "0x" + outcome.tx_hash.hex()


def test_execute__out_of_gas__says_so(client: ChainClient, make_sender: MakeSender) -> None:
    sender = make_sender()
    to, data = client.deployment.address("Probe"), client.encode("Probe", "spend")
    sender.send("hungry", to, data, gas=60_000)
    with pytest.raises(TransactionReverted, match="out of gas"):
        sender.execute("hungry", to, data, timeout=20)


def test_retry__attempt_failed_for_good__goes_on_under_a_new_key(client: ChainClient, make_sender: MakeSender) -> None:
    sender = make_sender()
    to, data = bump(client, 50)
    sender.retry("pay", to, data, gas=30_000)
    assert sender.wait("pay", timeout=20).has_failed
    sender.retry("pay", to, data)
    assert sender.wait("pay#2", timeout=20).succeeded
    assert sender.retry("pay", to, data).key == "pay#2"
    assert sender.latest("pay") == sender.outcome("pay#2")
    assert sender.latest("other") is None
    assert count(client, 50) == 1


def test_retry__attempt_still_under_way__sends_nothing(
    node: Anvil, client: ChainClient, make_sender: MakeSender
) -> None:
    node.automine(False)
    sender = make_sender()
    first = sender.retry("pay", *bump(client, 51), gas=30_000)
    assert sender.retry("pay", *bump(client, 51)) == first
    assert len(sender.pending()) == 1


def test_step__signed_anew__keeps_a_gas_limit_that_was_given(
    node: Anvil, client: ChainClient, make_sender: MakeSender, signer: Signer
) -> None:
    node.automine(False)
    sender = make_sender()
    sender.send("roomy", *bump(client, 52), gas=900_000)
    node.rpc("anvil_dropAllTransactions", [])
    foreign_transaction(node, signer, 0, 80 * GWEI)
    node.mine()
    sender.step()
    assert (sender.outcome("roomy").nonce, sender._find("roomy").gas) == (1, 900_000)


def test_send__network_above_the_ceiling__is_refused(client: ChainClient, make_sender: MakeSender) -> None:
    sender = make_sender(SenderPolicy(max_fee=10))
    with pytest.raises(FeeTooHigh, match="above the ceiling of 10"):
        sender.send("dear", *bump(client, 42))
    sender = make_sender(SenderPolicy(max_gas=30_000), name="small")
    with pytest.raises(FeeTooHigh, match="make it smaller"):
        sender.send("large", *bump(client, 42))
    assert count(client, 42) == 0


def test_wait__not_mined__times_out_and_is_still_followed(
    node: Anvil, client: ChainClient, make_sender: MakeSender
) -> None:
    node.automine(False)
    sender = make_sender()
    sender.send("late", *bump(client, 43))
    with pytest.raises(TransactionTimeout, match="wait again with the same key"):
        sender.wait("late", timeout=0.1)
    timer = threading.Timer(0.1, node.mine)
    timer.start()
    assert sender.wait("late", timeout=20).succeeded
    timer.join()
    assert count(client, 43) == 1


def test_open__file_in_use__names_the_process(make_sender: MakeSender) -> None:
    make_sender()
    with pytest.raises(SenderLocked, match=r"in use by process \d+"):
        make_sender()


def test_open__another_account__is_refused(
    node: Anvil, client: ChainClient, make_sender: MakeSender, quick_folder: Path
) -> None:
    make_sender().close()
    other = funded(node, 77)
    with pytest.raises(ForeignStore, match="belongs to account"):
        TransactionSender(client, other, quick_folder / "sender.sqlite")


def test_open__damaged_file__is_refused_and_kept(client: ChainClient, signer: Signer, quick_folder: Path) -> None:
    path = quick_folder / "sender.sqlite"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 40)
    before = path.read_bytes()
    with pytest.raises(ForeignStore, match="damaged"):
        TransactionSender(client, signer, path)
    assert path.read_bytes() == before


def test_open__unknown_schema__is_refused(client: ChainClient, make_sender: MakeSender, quick_folder: Path) -> None:
    make_sender().close()
    with sqlite3.connect(quick_folder / "sender.sqlite") as db:
        db.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
    db.close()
    with pytest.raises(ForeignStore, match="belongs to schema 99"):
        make_sender()


def test_store__is_synced_on_every_commit_and_private(make_sender: MakeSender, quick_folder: Path) -> None:
    store = make_sender()._store
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert (quick_folder / "sender.sqlite").stat().st_mode & 0o777 == 0o600
