"""Sends transactions of one account, each exactly once, whatever happens in between.

    with TransactionSender(client, signer, data_folder / "sender.sqlite") as sender:
        sender.send("settle-2024-05-01T10:05", escrow, calldata)
        outcome = sender.wait("settle-2024-05-01T10:05", timeout=300)

The caller names each transaction by a key. The intent, its nonce and the signed bytes are on disk before the first byte
is broadcast; a repeat with the same key sends nothing and returns the first's outcome. From then on `step` brings it
home: it looks up every recorded hash, broadcasts again what nodes dropped, bids more for what is stuck, takes a mined
transaction as final only in a final block that is still on the chain, and follows it back when a reorganisation undoes
its block. Only when another transaction of the account has the nonce in a final block, and no endpoint knows any of our
hashes as mined, is the intent signed anew at a new nonce. Nothing is ever cancelled by a timeout. Amounts are in wei.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from protocol.address import to_address
from protocol.chain import _checks
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import (
    ChainError,
    ContractReverted,
    FeeTooHigh,
    InsufficientFunds,
    IntentConflict,
    MalformedAnswer,
    NonceGap,
    RpcError,
    RpcRejected,
    RpcUnavailable,
    SenderError,
    TransactionReverted,
    TransactionTimeout,
    UnknownIntent,
)
from protocol.chain.fees import data_fee
from protocol.chain.intents import Attempt, Intent, IntentStore, State
from protocol.chain.rpc import Call
from protocol.chain.transactions import Transaction, sign
from protocol.chain.views import Fees, Head, TxReceipt
from protocol.signing import Signer
from protocol.typed_data import check_uint

_log = logging.getLogger(__name__)
_FILL = "fill-nonce:"
_KNOWN = ("already known", "alreadyknown", "already imported", "known transaction", "already exists")
_POOR = ("insufficient funds", "insufficient balance")


@dataclass(frozen=True)
class SenderPolicy:
    """When a transaction counts as stuck, and what may be bid. Times in seconds, fees in wei per gas.

    A replacement bids at least `bump_permille` thousandths of the last bid; nodes ask for 1100 to 1125.
    """

    stuck_s: float = 60.0
    stuck_blocks: int = 50
    bump_permille: int = 1125
    max_fee: int = 500 * 10**9
    max_tip: int = 50 * 10**9
    gas_margin_permille: int = 1200
    max_gas: int = 30_000_000
    max_gap: int = 16
    poll_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a transaction so far. `tx_hash` is the mined one, or the one most likely to be.

    `note` says why a PENDING one has not moved, or why a REFUSED one never will be sent.
    """

    key: str
    state: State
    nonce: int
    tx_hash: bytes
    receipt: TxReceipt | None
    note: str

    @property
    def succeeded(self) -> bool:
        """Mined without reverting; see `state` for whether that is final."""
        return self.receipt is not None and self.receipt.succeeded

    @property
    def has_ended(self) -> bool:
        """Nothing more will become of it: final, or never to be sent."""
        return self.state in (State.FINAL, State.REFUSED)

    @property
    def has_failed(self) -> bool:
        """It ended without its effect."""
        return self.has_ended and not self.succeeded


@dataclass(frozen=True)
class _View:
    """One look at the chain."""

    head: Head
    final: int
    nonce: int
    receipts: dict[bytes, TxReceipt]
    unknown: set[bytes]


class TransactionSender:
    """Thread-safe; one process per file, and one file per account and chain.

    Raises SenderLocked or ForeignStore when the file is in use, damaged or another account's.
    """

    def __init__(self, client: ChainClient, signer: Signer, path: Path, policy: SenderPolicy | None = None) -> None:
        self.address = signer.address
        self.policy = policy or SenderPolicy()
        self._client = client
        self._signer = signer
        self._mutex = threading.RLock()
        self._resumed = False
        self._used_up: dict[int, tuple[int, bytes]] = {}
        self._store = IntentStore(
            path,
            {
                "account": signer.address,
                "chain": str(client.deployment.chain_id),
                "genesis": client.deployment.genesis_hash.hex(),
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._mutex:
            self._store.close()

    def send(self, key: str, to: str, data: bytes = b"", value: int = 0, *, gas: int | None = None) -> Outcome:
        """Record and broadcast a transaction, or return what became of the one sent before under this key.

        An exception means that nothing was recorded and nothing will be sent: ContractReverted, InsufficientFunds,
        FeeTooHigh, RpcUnavailable, IntentConflict, SenderError. A broadcast that fails raises nothing: the intent is on
        disk and is broadcast again by `step`.
        """
        if not key or key.startswith(_FILL):
            raise IntentConflict(f"a key must not be empty nor start with {_FILL!r}")
        check_uint(value, "value", 256)
        transaction = Transaction(to_address(to, "to"), bytes(data), value)
        with self._mutex:
            known = self._store.find(key)
            if known is not None:
                if known.transaction != transaction:
                    raise IntentConflict(f"the key {key!r} was used for another transaction: choose a new key")
                return _outcome(known)
            if not self._resumed:
                self.step()
            try:
                intent = self._record(key, transaction, gas, self._next_nonce())
            except InsufficientFunds:
                if not self._store.live():
                    raise
                self.step()
                intent = self._record(key, transaction, gas, self._next_nonce())
            return _outcome(self._broadcast(intent))

    def retry(
        self,
        name: str,
        to: str,
        data: bytes = b"",
        value: int = 0,
        *,
        gas: int | None = None,
        is_over: Callable[[Outcome], bool] = lambda outcome: outcome.has_failed,
    ) -> Outcome:
        """`send` under the key `name`, and anew under `name#2`, `name#3`, … once the last attempt `is_over`.

        By default an attempt is over when it failed for good, so at most one can ever have an effect. Raises as `send`.
        """
        with self._mutex:
            number = 1
            while (known := self._store.find(_attempt_key(name, number))) is not None and is_over(_outcome(known)):
                number += 1
            return self.send(_attempt_key(name, number), to, data, value, gas=gas)

    def latest(self, name: str) -> Outcome | None:
        """The newest attempt of `retry` under this name, as recorded; None before the first."""
        with self._mutex:
            number = 1
            found = None
            while (known := self._store.find(_attempt_key(name, number))) is not None:
                found, number = _outcome(known), number + 1
            return found

    def outcome(self, key: str) -> Outcome:
        """What is recorded now; nothing is asked of the chain. Raises UnknownIntent."""
        with self._mutex:
            return _outcome(self._find(key))

    def pending(self) -> list[Outcome]:
        """Everything that is not final yet, by nonce."""
        with self._mutex:
            return [_outcome(intent) for intent in self._store.live()]

    def step(self) -> None:
        """Look at the chain once and do what is due for every intent that is not final.

        Safe to call at any time and as often as wanted. Raises RpcError or WrongChain when the chain cannot be seen;
        nothing is lost by that.
        """
        with self._mutex:
            intents = self._store.live()
            view = self._look(intents)
            for intent in intents:
                self._advance(intent, view)
            self._close_gap(view)
            self._resumed = True

    def wait(self, key: str, *, timeout: float, until: State = State.FINAL) -> Outcome:
        """Step until the transaction is `until` (MINED or FINAL) or REFUSED, through outages of the RPC endpoints.

        Raises TransactionTimeout after `timeout` seconds: the transaction is still followed, so never send it anew
        under another key; InsufficientFunds when the account ran dry meanwhile; UnknownIntent.
        """
        deadline = time.monotonic() + timeout
        with self._mutex:
            self._find(key)
        trouble = ""
        while True:
            try:
                self.step()
                trouble = ""
            except (RpcUnavailable, RpcRejected, MalformedAnswer) as error:
                trouble = str(error)
            outcome = self.outcome(key)
            if outcome.has_ended or outcome.state is until:
                return outcome
            if time.monotonic() >= deadline:
                raise self._late(outcome, trouble, timeout)
            time.sleep(self.policy.poll_s)

    def execute(
        self, key: str, to: str, data: bytes = b"", value: int = 0, *, timeout: float, until: State = State.FINAL
    ) -> Outcome:
        """`send` and `wait`; raises TransactionReverted unless it succeeded."""
        self.send(key, to, data, value)
        outcome = self.wait(key, timeout=timeout, until=until)
        if not outcome.succeeded:
            raise TransactionReverted("0x" + outcome.tx_hash.hex(), self._why(outcome))
        return outcome

    def _find(self, key: str) -> Intent:
        intent = self._store.find(key)
        if intent is None:
            raise UnknownIntent(f"nothing was sent under the key {key!r}")
        return intent

    def _late(self, outcome: Outcome, trouble: str, timeout: float) -> SenderError:
        if any(phrase in outcome.note for phrase in _POOR):
            with self._mutex:
                intent = self._find(outcome.key)
            try:
                available = self._client.balance(self.address)
            except ChainError:
                available = 0
            needed = intent.gas * intent.current.fees.max_fee + intent.transaction.value
            if needed > available:
                return InsufficientFunds(self.address, needed, available)
        reason = trouble or outcome.note or "it waits for its block"
        return TransactionTimeout(
            f"transaction {outcome.key!r} is still {outcome.state} after {timeout:g} s ({reason}): "
            "it stays recorded and is followed; wait again with the same key"
        )

    def _next_nonce(self) -> int:
        """Above our own and above every transaction of the account that a node knows.

        A nonce that is too low is mended later and one that is too high is not: so others' count only if said twice.
        """
        known = self._store.next_nonce()
        claimed = self._claimed_nonce()
        return known if claimed <= known else max(known, min(claimed, self._claimed_nonce()))

    def _claimed_nonce(self) -> int:
        mined, queued = (
            _checks.quantity(_accepted(answer), "a transaction count", 64)
            for answer in self._client.rpc.batch(
                [("eth_getTransactionCount", [self.address, block]) for block in ("latest", "pending")]
            )
        )
        if queued - mined > 1_000 + len(self._store.live()):
            raise MalformedAnswer(f"a node claims {queued - mined} pending transactions of {self.address}")
        return max(mined, queued)

    def _record(self, key: str, transaction: Transaction, gas: int | None, nonce: int) -> Intent:
        gas = self._gas(transaction) if gas is None else gas
        fees = self._bid()
        self._check_funds(transaction, gas, fees)
        return self._store.record(key, transaction, gas, self._sign(transaction, gas, fees, nonce))

    def _gas(self, transaction: Transaction) -> int:
        try:
            answer = self._client.rpc.request("eth_estimateGas", transaction.as_request(self.address), "pending")
        except RpcRejected as error:
            if any(phrase in error.message.lower() for phrase in _POOR):
                raise self._poor(transaction) from None
            raise self._client.explain(error) from None
        estimate = _checks.quantity(answer, "a gas estimate", 64)
        if estimate > self.policy.max_gas:
            raise FeeTooHigh(
                f"the transaction needs {estimate} gas, above the ceiling of {self.policy.max_gas}: make it smaller"
            )
        return min(estimate * self.policy.gas_margin_permille // 1000, self.policy.max_gas)

    def _bid(self) -> Fees:
        """What the network suggests, within the policy."""
        suggested = self._client.fees()
        base = (suggested.max_fee - suggested.tip) // 2
        tip = min(suggested.tip, self.policy.max_tip)
        if base + tip > self.policy.max_fee:
            raise FeeTooHigh(
                f"the network asks {base + tip} wei per gas, above the ceiling of {self.policy.max_fee}: "
                "wait, or raise the ceiling"
            )
        return Fees(max_fee=min(2 * base + tip, self.policy.max_fee), tip=tip)

    def _check_funds(self, transaction: Transaction, gas: int, fees: Fees) -> None:
        promised = sum(
            intent.gas * intent.current.fees.max_fee + intent.transaction.value
            for intent in self._store.live()
            if intent.state is State.PENDING
        )
        needed = gas * fees.max_fee + transaction.value + data_fee(self._client, transaction, gas=gas, fees=fees)
        available = self._client.balance(self.address)
        if needed + promised > available:
            raise InsufficientFunds(self.address, needed + promised, available)

    def _poor(self, transaction: Transaction) -> InsufficientFunds:
        """The node would not even estimate: the least any transaction takes, besides its value."""
        least = 21_000 * self._bid().max_fee + transaction.value
        available = self._client.balance(self.address)
        return InsufficientFunds(self.address, max(least, available + 1), available)

    def _sign(
        self, transaction: Transaction, gas: int, fees: Fees, nonce: int, made_block: int | None = None
    ) -> Attempt:
        raw, tx_hash = sign(
            transaction, self._signer, chain_id=self._client.deployment.chain_id, nonce=nonce, gas=gas, fees=fees
        )
        block = self._client.head().number if made_block is None else made_block
        return Attempt(tx_hash, nonce, raw, fees, time.time(), block)

    def _broadcast(self, intent: Intent) -> Intent:
        """Hand the newest attempt to a node; a failure is noted, not raised."""
        note = ""
        try:
            answer = self._client.rpc.request("eth_sendRawTransaction", "0x" + intent.current.raw.hex())
            if _checks.data(answer, "a sent transaction's hash", 32) != intent.current.hash:
                note = "a node answered with the hash of another transaction"
        except RpcRejected as error:
            if not any(phrase in error.message.lower() for phrase in _KNOWN):
                note = f"a node refused it: {error.message.lower()}"
        except ChainError as error:
            note = str(error)
        if note:
            _log.warning("transaction %r at nonce %d is recorded but not out: %s", intent.key, intent.nonce, note)
        return intent if note == intent.note else self._store.set_state(intent, State.PENDING, note=note)

    def _look(self, intents: Sequence[Intent]) -> _View:
        """Head, finality, nonce, and what became of every attempt, abandoned ones included."""
        hashes = [attempt.hash for intent in intents for attempt in intent.attempts]
        newest = [intent.current.hash for intent in intents]
        calls: list[Call] = [
            ("eth_getBlockByNumber", ["latest", False]),
            ("eth_getTransactionCount", [self.address, "latest"]),
            *(("eth_getTransactionReceipt", ["0x" + tx_hash.hex()]) for tx_hash in hashes),
            *(("eth_getTransactionByHash", ["0x" + tx_hash.hex()]) for tx_hash in newest),
        ]
        answers = [_accepted(answer) for answer in self._client.rpc.batch(calls)]
        head = Head.parse(answers[0])
        found = answers[2 : 2 + len(hashes)]
        receipts = {
            tx_hash: self._own(TxReceipt.parse(answer, tx_hash))
            for tx_hash, answer in zip(hashes, found, strict=True)
            if answer is not None
        }
        return _View(
            head=head,
            final=self._client.final_block(head),
            nonce=_checks.quantity(answers[1], "a transaction count", 64),
            receipts=receipts,
            unknown={h for h, answer in zip(newest, answers[2 + len(hashes) :], strict=True) if answer is None},
        )

    def _own(self, receipt: TxReceipt) -> TxReceipt:
        if receipt.sender != self.address:
            raise MalformedAnswer("a receipt of one of our transactions names another sender")
        return receipt

    def _advance(self, intent: Intent, view: _View) -> None:
        receipt = next((view.receipts[a.hash] for a in intent.attempts if a.hash in view.receipts), None)
        if receipt is not None and self._is_canonical(receipt):
            state = State.FINAL if receipt.block_number <= view.final else State.MINED
            if state is not intent.state or receipt != intent.receipt:
                self._store.set_state(intent, state, receipt)
                _log.info("transaction %r is %s in block %d", intent.key, state, receipt.block_number)
            return
        if intent.state is State.MINED:
            _log.warning("transaction %r was undone by a reorganisation", intent.key)
            intent = self._store.set_state(intent, State.PENDING, note="its block was undone by a reorganisation")
        if view.nonce > intent.nonce:
            if self._is_lost(intent, view):
                self._begin_anew(intent)
        elif self._is_stuck(intent, view):
            self._bid_more(intent, view)
        elif intent.current.hash in view.unknown:
            self._broadcast(intent)

    def _is_canonical(self, receipt: TxReceipt) -> bool:
        block = self._client.block(receipt.block_number)
        return block is not None and block.hash == receipt.block_hash

    def _is_stuck(self, intent: Intent, view: _View) -> bool:
        """Only the next transaction due can be: the others wait for it."""
        attempt = intent.current
        return intent.nonce == view.nonce and (
            time.time() - attempt.made_at >= self.policy.stuck_s
            or view.head.number - attempt.made_block >= self.policy.stuck_blocks
        )

    def _bid_more(self, intent: Intent, view: _View) -> None:
        last = intent.current.fees
        least = Fees(self._raised(last.max_fee), self._raised(last.tip))
        try:
            now = self._bid()
        except FeeTooHigh:
            now = least
        fees = Fees(max_fee=max(least.max_fee, now.max_fee), tip=max(least.tip, now.tip))
        if fees.max_fee > self.policy.max_fee:
            note = f"it is stuck at a bid of {last.max_fee} wei per gas and the ceiling is {self.policy.max_fee}"
            if intent.note != note:
                _log.warning("transaction %r: %s", intent.key, note)
                intent = self._store.set_state(intent, State.PENDING, note=note)
            if intent.current.hash in view.unknown:
                self._broadcast(intent)
            return
        attempt = self._sign(intent.transaction, intent.gas, fees, intent.nonce, view.head.number)
        _log.info("transaction %r is stuck: bidding %d wei per gas", intent.key, fees.max_fee)
        self._broadcast(self._store.replace(intent, attempt))

    def _raised(self, fee: int) -> int:
        return fee * self.policy.bump_permille // 1000 + 1

    def _is_lost(self, intent: Intent, view: _View) -> bool:
        """Proof that another transaction has this nonce for good.

        The nonce was used up in some block, that block is final and still on the chain, and no endpoint that answers
        knows any of our hashes as mined. Only recent state is asked for: nodes prune old one.
        """
        seen = self._used_up.get(intent.nonce)
        if seen is None:
            if self._client.transaction_count(self.address, view.head.number) <= intent.nonce:
                return False
            seen = self._used_up[intent.nonce] = (view.head.number, view.head.hash)
        number, block_hash = seen
        if number > view.final:
            return False
        block = self._client.block(number)
        if block is None or block.hash != block_hash:
            del self._used_up[intent.nonce]
            return False
        return self._is_mined_nowhere(intent)

    def _is_mined_nowhere(self, intent: Intent) -> bool:
        answers = self._client.rpc.everywhere(_receipt_calls(intent))
        return all(receipt is None for receipts in answers for receipt in receipts)

    def _begin_anew(self, intent: Intent) -> None:
        """The nonce is gone for good: sign the same intent at a new one, if it still makes sense."""
        note = f"nonce {intent.nonce} was used by another transaction of {self.address}"
        _log.warning("transaction %r: %s", intent.key, note)
        if intent.key.startswith(_FILL):
            self._store.set_state(intent, State.REFUSED, note=note)
            return
        try:
            gas, fees = max(intent.gas, self._gas(intent.transaction)), self._bid()
        except ContractReverted as error:
            self._store.set_state(intent, State.REFUSED, note=f"{note}; now the contract refuses it: {error.reason}")
            return
        except SenderError as error:
            self._store.set_state(intent, State.PENDING, note=f"{note}; {error}")
            return
        attempt = self._sign(intent.transaction, gas, fees, self._next_nonce())
        self._broadcast(self._store.move(intent, gas, attempt))

    def _close_gap(self, view: _View) -> None:
        """Fill nonces that hold ours up and that no transaction known to anyone has.

        They arise when transactions sent with this key by another program were dropped, or when a block that had
        counted as final was undone.
        """
        waiting = [intent for intent in self._store.live() if intent.state is State.PENDING]
        if not waiting or waiting[0].nonce <= view.nonce:
            return
        first = waiting[0]
        if time.time() - first.current.made_at < self.policy.stuck_s:
            return
        queued = self._client.transaction_count(self.address, "pending")
        gap = range(max(view.nonce, queued), first.nonce)
        if len(gap) > self.policy.max_gap:
            raise NonceGap(
                f"{len(gap)} transactions of {self.address} are missing before nonce {first.nonce}: another program "
                "uses this key, or a node is far behind; stop the other program or change the RPC address"
            )
        for nonce in gap:
            holder = self._store.holder(nonce)
            if holder is None:
                self._broadcast(self._record(f"{_FILL}{nonce}", Transaction(self.address), 21_000, nonce))
            elif self._is_mined_nowhere(holder):
                _log.warning("transaction %r was undone after its block had counted as final", holder.key)
                self._broadcast(self._store.set_state(holder, State.PENDING, note="its final block was undone"))

    def _why(self, outcome: Outcome) -> str:
        if outcome.receipt is None:
            return outcome.note
        with self._mutex:
            intent = self._find(outcome.key)
        if outcome.receipt.gas_used >= intent.gas:
            return "out of gas"
        request: dict[str, Any] = intent.transaction.as_request(self.address)
        try:
            self._client.rpc.request("eth_call", request, hex(outcome.receipt.block_number))
        except RpcRejected as error:
            explained = self._client.explain(error)
            return explained.reason if isinstance(explained, ContractReverted) else str(explained)
        except RpcError as error:
            return f"reason not available: {error}"
        return "reason not available: the state has changed since"


def _attempt_key(name: str, number: int) -> str:
    return name if number == 1 else f"{name}#{number}"


def _receipt_calls(intent: Intent) -> list[Call]:
    return [("eth_getTransactionReceipt", ["0x" + attempt.hash.hex()]) for attempt in intent.attempts]


def _outcome(intent: Intent) -> Outcome:
    tx_hash = intent.receipt.tx_hash if intent.receipt else intent.current.hash
    return Outcome(intent.key, intent.state, intent.nonce, tx_hash, intent.receipt, intent.note)


def _accepted(answer: Any) -> Any:
    if isinstance(answer, RpcRejected):
        raise answer
    return answer
