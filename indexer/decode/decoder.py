"""Which event a log is, and its arguments.

Every argument of the market's events is one word, in a topic or at a fixed place in the data; structs are flattened
into their members. An event of any other shape, or of an unknown topic, is left raw. Addresses are 20 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from indexer.decode.words import WordReader, reader_of
from indexer.rpc.logs import Log
from protocol.chain.abi import ContractAbi, topic
from protocol.chain.exceptions import MalformedLog

_WORD = 32


class Event(NamedTuple):
    """A decoded log. `contract` is the name in the deployment file."""

    contract: str
    name: str
    args: dict[str, Any]
    log: Log


class _Shape:
    def __init__(
        self, contract: str, name: str, indexed: list[tuple[str, WordReader]], plain: list[tuple[str, WordReader]]
    ) -> None:
        self.contract = contract
        self.name = name
        self._indexed = indexed
        self._plain = [(name, reader, at * _WORD, (at + 1) * _WORD) for at, (name, reader) in enumerate(plain)]
        self._data_bytes = len(plain) * _WORD

    def decode(self, log: Log) -> Event:
        data = log.data
        topics = [topic for topic in (log.topic1, log.topic2, log.topic3) if topic is not None]
        if len(data) != self._data_bytes or len(topics) != len(self._indexed):
            raise self._misfit(log)
        try:
            args = {name: read(word) for (name, read), word in zip(self._indexed, topics, strict=True)}
            for name, read, start, end in self._plain:
                args[name] = read(data[start:end])
        except ValueError:
            raise self._misfit(log) from None
        return Event(self.contract, self.name, args, log)

    def _misfit(self, log: Log) -> MalformedLog:
        where = f"block {log.block_number}, log {log.log_index}"
        return MalformedLog(f"{self.contract}.{self.name} in {where}, does not fit its ABI")


class Decoder:
    """Decodes the logs of contracts at these addresses."""

    def __init__(self, contracts: Mapping[bytes, ContractAbi]) -> None:
        self.addresses = frozenset(contracts)
        self._shapes: dict[tuple[bytes, bytes | None], _Shape] = {}
        for address, abi in contracts.items():
            for entry in abi.events:
                shape = _shape(abi.name, entry)
                if shape is not None:
                    self._shapes[address, topic(entry)] = shape

    def decode(self, log: Log) -> Event | None:
        """None for an unknown event. Raises MalformedLog for one that its ABI cannot have produced."""
        shape = self._shapes.get((log.address, log.topic0))
        return None if shape is None else shape.decode(log)

    def decode_all(self, logs: Iterable[Log]) -> list[Event | None]:
        """`decode` of each, in their order."""
        shapes = self._shapes
        return [None if (shape := shapes.get((log.address, log.topic0))) is None else shape.decode(log) for log in logs]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Contract and name of every event it knows."""
        return iter({(shape.contract, shape.name): None for shape in self._shapes.values()})


def _shape(contract: str, entry: Mapping[str, Any]) -> _Shape | None:
    indexed: list[tuple[str, WordReader]] = []
    plain: list[tuple[str, WordReader]] = []
    for parameter in entry["inputs"]:
        members = parameter["components"] if parameter["type"] == "tuple" else [parameter]
        for member in members:
            reader = reader_of(member["type"])
            if reader is None or (parameter["indexed"] and parameter["type"] == "tuple"):
                return None
            (indexed if parameter["indexed"] else plain).append((member["name"], reader))
    return _Shape(contract, entry["name"], indexed, plain)
