"""Logs into typed events, by the ABIs of one deployment's contracts.

Logs of other addresses and of unknown topics are skipped (None); a log of a known event that its ABI cannot have
produced is refused with MalformedLog: then the node lies, or the ABI is of another version. Web3's codec decodes. Its
`process_log` is not used: it works out each event's types anew for every log (about a fifth of the speed) and
takes data that is longer than its ABI explains, or encoded in another way than contracts do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from eth_abi.exceptions import DecodingError

from protocol.chain.abi import CODEC, ContractAbi, abi_type, to_named, topic
from protocol.chain.exceptions import DeploymentError, MalformedLog
from protocol.chain.views import RawLog


@dataclass(frozen=True, slots=True)
class Event:
    """An event and its place on the chain. Indexed values of dynamic types appear as the hash that the log holds."""

    contract: str
    name: str
    args: Mapping[str, Any]
    address: str
    block_number: int
    block_hash: bytes
    tx_hash: bytes
    tx_index: int
    log_index: int


class _EventAbi:
    def __init__(self, contract: str, entry: Mapping[str, Any]) -> None:
        self.contract = contract
        self.name: str = entry["name"]
        self._order = [parameter["name"] for parameter in entry["inputs"]]
        self._indexed = [parameter for parameter in entry["inputs"] if parameter["indexed"]]
        self._indexed_types = [_topic_type(parameter) for parameter in self._indexed]
        self._plain = [parameter for parameter in entry["inputs"] if not parameter["indexed"]]
        self._plain_types = [abi_type(parameter) for parameter in self._plain]
        self._has_structs = any(t.startswith("(") or t.endswith("]") for t in self._plain_types)
        for kind in self._plain_types + self._indexed_types:
            if not CODEC.is_encodable_type(kind):
                raise DeploymentError(f"the ABI of {contract}.{self.name} has an unknown type {kind}")

    def decode(self, log: RawLog) -> Event:
        if len(log.topics) != len(self._indexed) + 1:
            raise MalformedLog(f"{self._where(log)} has {len(log.topics)} topics instead of {len(self._indexed) + 1}")
        try:
            indexed = CODEC.decode(self._indexed_types, b"".join(log.topics[1:]))
            plain = CODEC.decode(self._plain_types, log.data)
            exact = CODEC.encode(self._plain_types, plain) == log.data
        except (DecodingError, OverflowError, UnicodeDecodeError) as error:
            raise MalformedLog(f"{self._where(log)} does not fit its ABI: {error}") from None
        if not exact:
            raise MalformedLog(f"{self._where(log)} carries data that its ABI does not explain")
        found = {p["name"]: to_named(v, {**p, "type": t}) for p, t, v in self._of(self._indexed, indexed)}
        found |= {p["name"]: to_named(value, p) for p, value in zip(self._plain, plain, strict=True)}
        return Event(
            contract=self.contract,
            name=self.name,
            args=MappingProxyType({name: found[name] for name in self._order}),
            address=log.address,
            block_number=log.block_number,
            block_hash=log.block_hash,
            tx_hash=log.tx_hash,
            tx_index=log.tx_index,
            log_index=log.log_index,
        )

    def _of(self, parameters: list[Mapping[str, Any]], values: tuple[Any, ...]) -> Iterable[tuple[Any, str, Any]]:
        return zip(parameters, self._indexed_types, values, strict=True)

    def _where(self, log: RawLog) -> str:
        return f"{self.contract}.{self.name} in block {log.block_number}, log {log.log_index},"


class EventDecoder:
    """Decodes the logs of the contracts at these addresses."""

    def __init__(self, contracts: Mapping[str, ContractAbi]) -> None:
        self._events: dict[tuple[str, bytes], _EventAbi] = {}
        for address, abi in contracts.items():
            for entry in abi.events:
                self._events[address, topic(entry)] = _EventAbi(abi.name, entry)

    @property
    def addresses(self) -> list[str]:
        return sorted({address for address, _ in self._events})

    def topic_of(self, contract: str, name: str) -> bytes:
        """The first topic of an event, for a log filter."""
        for (_, first), event in self._events.items():
            if (event.contract, event.name) == (contract, name):
                return first
        raise DeploymentError(f"{contract} has no event {name}: export the ABIs again")

    def decode(self, log: RawLog) -> Event | None:
        if not log.topics:
            return None
        known = self._events.get((log.address, log.topics[0]))
        return None if known is None else known.decode(log)

    def decode_all(self, logs: Iterable[RawLog]) -> list[Event]:
        """The known events among these logs, in their order."""
        return [event for event in map(self.decode, logs) if event is not None]


def _topic_type(parameter: Mapping[str, Any]) -> str:
    """How an indexed value is stored in a topic: values longer than a word, or of unknown length, by their hash."""
    kind = abi_type(parameter)
    return "bytes32" if kind in ("string", "bytes") or kind.startswith("(") or kind.endswith("]") else kind
