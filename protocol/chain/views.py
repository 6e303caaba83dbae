"""What the chain client returns: frozen values, checked when they are built.

Amounts are in token base units or wei, times in Unix seconds or seconds, addresses in EIP-55 form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from protocol.chain import _checks
from protocol.chain.exceptions import DeploymentError, MalformedAnswer


@dataclass(frozen=True, slots=True)
class Head:
    """A block. Deadlines are judged by the head's `timestamp`; `base_fee` is in wei per gas, 0 before EIP-1559."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int
    base_fee: int

    @classmethod
    def parse(cls, value: Any) -> Self:
        base_fee = value.get("baseFeePerGas") if isinstance(value, dict) else None
        return cls(
            number=_checks.quantity(_checks.member(value, "number", "a block"), "a block's number", 64),
            hash=_checks.data(_checks.member(value, "hash", "a block"), "a block's hash", 32),
            parent_hash=_checks.data(_checks.member(value, "parentHash", "a block"), "a block's parent hash", 32),
            timestamp=_checks.quantity(_checks.member(value, "timestamp", "a block"), "a block's timestamp", 64),
            base_fee=0 if base_fee is None else _checks.quantity(base_fee, "a block's base fee", 128),
        )


@dataclass(frozen=True, slots=True)
class RawLog:
    """A log as the chain holds it."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    tx_hash: bytes
    tx_index: int
    log_index: int

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Refuses logs of pending or removed blocks too: they are on no chain."""
        topics = _checks.member(value, "topics", "a log")
        if not isinstance(topics, list) or len(topics) > 4:
            raise MalformedAnswer(f"a log's topics are malformed: {_checks.shown(topics)}")
        if value.get("removed") not in (None, False):
            raise MalformedAnswer("a log is marked as removed")
        return cls(
            address=_checks.address(_checks.member(value, "address", "a log"), "a log's address"),
            topics=tuple(_checks.data(topic, "a log's topic", 32) for topic in topics),
            data=_checks.data(_checks.member(value, "data", "a log"), "a log's data"),
            block_number=_checks.quantity(_checks.member(value, "blockNumber", "a log"), "a log's block number", 64),
            block_hash=_checks.data(_checks.member(value, "blockHash", "a log"), "a log's block hash", 32),
            tx_hash=_checks.data(_checks.member(value, "transactionHash", "a log"), "a log's transaction hash", 32),
            tx_index=_checks.quantity(_checks.member(value, "transactionIndex", "a log"), "a transaction index", 32),
            log_index=_checks.quantity(_checks.member(value, "logIndex", "a log"), "a log index", 32),
        )

    def as_json(self) -> dict[str, Any]:
        """The form `parse` reads."""
        return {
            "address": self.address,
            "topics": ["0x" + topic.hex() for topic in self.topics],
            "data": "0x" + self.data.hex(),
            "blockNumber": hex(self.block_number),
            "blockHash": "0x" + self.block_hash.hex(),
            "transactionHash": "0x" + self.tx_hash.hex(),
            "transactionIndex": hex(self.tx_index),
            "logIndex": hex(self.log_index),
        }


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction. `cost` is all it took from the sender besides its value, in wei."""

    tx_hash: bytes
    block_number: int
    block_hash: bytes
    sender: str
    succeeded: bool
    gas_used: int
    gas_price: int
    l1_fee: int
    logs: tuple[RawLog, ...]

    @property
    def cost(self) -> int:
        return self.gas_used * self.gas_price + self.l1_fee

    @classmethod
    def parse(cls, value: Any, tx_hash: bytes) -> Self:
        """The receipt of exactly this transaction, or MalformedAnswer."""
        what = "a transaction receipt"
        found = _checks.data(_checks.member(value, "transactionHash", what), "a receipt's transaction hash", 32)
        if found != tx_hash:
            raise MalformedAnswer("a receipt is of another transaction than asked for")
        status = _checks.quantity(_checks.member(value, "status", what), "a receipt's status", 8)
        if status > 1:
            raise MalformedAnswer(f"a receipt's status is {status}")
        logs = _checks.member(value, "logs", what)
        if not isinstance(logs, list):
            raise MalformedAnswer("a receipt's logs are not a list")
        l1_fee = value.get("l1Fee")
        receipt = cls(
            tx_hash=found,
            block_number=_checks.quantity(_checks.member(value, "blockNumber", what), "a receipt's block number", 64),
            block_hash=_checks.data(_checks.member(value, "blockHash", what), "a receipt's block hash", 32),
            sender=_checks.address(_checks.member(value, "from", what), "a receipt's sender"),
            succeeded=status == 1,
            gas_used=_checks.quantity(_checks.member(value, "gasUsed", what), "a receipt's gas", 64),
            gas_price=_checks.quantity(_checks.member(value, "effectiveGasPrice", what), "a receipt's gas price", 128),
            l1_fee=0 if l1_fee is None else _checks.quantity(l1_fee, "a receipt's data fee", 128),
            logs=tuple(RawLog.parse(log) for log in logs),
        )
        if any(log.tx_hash != tx_hash or log.block_hash != receipt.block_hash for log in receipt.logs):
            raise MalformedAnswer("a receipt holds logs of another transaction")
        return receipt

    def as_json(self) -> dict[str, Any]:
        """The form `parse` reads."""
        return {
            "transactionHash": "0x" + self.tx_hash.hex(),
            "blockNumber": hex(self.block_number),
            "blockHash": "0x" + self.block_hash.hex(),
            "from": self.sender,
            "status": hex(self.succeeded),
            "gasUsed": hex(self.gas_used),
            "effectiveGasPrice": hex(self.gas_price),
            "l1Fee": hex(self.l1_fee),
            "logs": [log.as_json() for log in self.logs],
        }


@dataclass(frozen=True, slots=True)
class Fees:
    """What to bid, in wei per gas: at most `max_fee`, of which `tip` to whoever builds the block."""

    max_fee: int
    tip: int


@dataclass(frozen=True, slots=True)
class _Struct:
    """A contract's struct, built from its members by name."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        names = [field.name for field in fields(cls)]
        if any(name not in values for name in names):
            raise DeploymentError(f"the ABI's {cls.__name__} has other members: export the ABIs again")
        return cls(**{name: values[name] for name in names})


@dataclass(frozen=True, slots=True)
class Lease(_Struct):
    """A lease. `closes_at` is effective: a provider's deregistration has already lowered it."""

    owner: str
    provider: int
    offer_id: int
    version: int
    token: str
    signer: str
    deposit: int
    settled: int
    expiry: int
    close_delay: int
    closes_at: int
    fee_bps: int
    is_closing: bool
    is_revoked: bool
    is_released: bool


@dataclass(frozen=True, slots=True)
class LeaseOffer(_Struct):
    """An offer as the escrow sees it. For an unknown provider or offer `version` is 0 and the flags are false."""

    owner: str
    is_registered: bool
    is_open: bool
    version: int
    kind: int
    token: str
    terms_digest: bytes
    min_deposit: int
    max_duration: int
    close_delay_min: int
    close_delay_max: int
    max_active: int


@dataclass(frozen=True, slots=True)
class Earnings:
    """A provider's earnings in one token, not collected yet: still held, and free to collect."""

    held: int
    free: int


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """Whose node key it is or was, and from when until when. `valid_until` is 2**40 - 1 while it is valid."""

    provider: int
    valid_from: int
    valid_until: int
